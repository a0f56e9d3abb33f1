"""A lake as an object: the operations of the command line as methods."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from facelake.api.access import Access, private_files
from facelake.api.corrections import Corrections
from facelake.api.feed import Feed
from facelake.api.follow import Following
from facelake.api.ledger import LedgerEvents
from facelake.api.tables import Rows
from facelake.api.values import (
    Explanation,
    Gallery,
    GalleryInfo,
    Identity,
    IdentityFace,
    RunSummary,
    Status,
    Verification,
    from_row,
)
from facelake.config import Config, load_config, read_local
from facelake.errors import ConfigError
from facelake.events import Listener, fan_out, ignore_events
from facelake.lake.store import read_text
from facelake.nightly import run_night
from facelake.partitions import in_partition
from facelake.stages.admission.import_grants import Grant, refuse_before_lake
from facelake.stages.admission.import_images import import_folder
from facelake.stages.core.context import Context, StageResult
from facelake.stages.erasure.cancelling import cancel_erasure
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import Erased, erase
from facelake.stages.erasure.targets import refuse_unknown_targets
from facelake.stages.gallery.change_list import changes_since
from facelake.stages.gallery.subjects import Contradictions, find_contradictions
from facelake.stages.gallery.versions import current_gallery, is_readable, list_galleries, require_gallery
from facelake.stages.governance.processing_register import require_assessment_to_import
from facelake.stages.operations.images import WITHOUT_FACES, Fate, ListedImage, list_images
from facelake.stages.operations.status import status
from facelake.stages.operations.verify import verify, verify_residual
from facelake.stages.reporting.report import latest_page
from facelake.stages.sharing.export import show

T = TypeVar("T")
_ANALYTICS = ("admissions", "rejects", "changes", "identity_stats", "reviews", "drift", "runs")
_FACE_COLUMNS = ["face_id", "identity_id", "image_id", "score", "how"]


def open(
    lake: str | Path | None = None,
    *,
    config: str | Path | Mapping[str, Any] | Config | None = None,
    on_event: Listener = ignore_events,
    wait_s: float = 0.0,
) -> Lake:
    """Return a lake by its location and configuration. Nothing is read or written but the config.

    Args:
        lake: a directory or s3://bucket/prefix; None: that of the config.
        config: path or s3:// URI of a YAML file; or its keys as a mapping, nested or dotted
            (`{"governance.dpia": "DPIA-2026-01"}`); or a checked Config; None: every value is the default.
        on_event: called with each progress event (facelake.events), from the threads that work.
        wait_s: seconds that an operation that writes waits for another writer of the lake.

    Raises:
        ConfigError: the config cannot be read, or has an unknown key or an invalid value.
    """
    if isinstance(config, Config | Mapping):
        keys = dict(config.model_dump() if isinstance(config, Config) else config)
        if lake is not None:
            keys["lake"] = str(lake)
        return Lake(in_partition(load_config(overrides=keys)), on_event, wait_s)
    path = str(config) if config is not None else None
    read = read_text if path and path.startswith("s3://") else read_local
    checked = load_config(path, lake=None if lake is None else str(lake), read=read)
    return Lake(in_partition(checked), on_event, wait_s)


@dataclass(frozen=True, slots=True)
class Lake:
    """A lake and the configuration of what is done with it; made by `facelake.open`.

    A method opens the lake, does one thing and closes it; a method that writes has the lake's lease meanwhile. Each
    raises ConfigError if there is no lake (only `import_images` creates it), and Refused for what facelake does not do
    and if another process still writes the lake after `wait_s`; facelake.errors lists the others.

    Attributes:
        config: the checked configuration.
        on_event: listener for progress events.
        wait_s: seconds that an operation that writes waits for another writer of the lake.
    """

    config: Config
    on_event: Listener = ignore_events
    wait_s: float = 0.0

    @property
    def uri(self) -> str:
        """The lake's location."""
        return self.config.lake

    @property
    def corrections(self) -> Corrections:
        """Corrections of the gallery."""
        return Corrections(self._access)

    @property
    def ledger(self) -> LedgerEvents:
        """The ledger of legal-basis events."""
        return LedgerEvents(self._access)

    @property
    def feed(self) -> Feed:
        """Exports, leases and changes for recipients."""
        return Feed(self._access)

    def import_images(
        self,
        folder: str | Path,
        *,
        grant: Grant | None,
        source: str | None = None,
        person_from: str | None = None,
        person_prefix: str = "",
        follow_links: bool = False,
        replace_changed: bool = False,
    ) -> StageResult:
        """Copy photos into the lake's own corpus and record their legal basis; creates the lake if there is none.

        Args:
            folder: a folder with its subfolders, s3:// prefix, or uncompressed .tar file.
            grant: the legal basis that you state for everyone in the photos; None records none, and the photos are
                refused until the ledger has one.
            source: the source_id; None: the folder's name.
            person_from: regex on the file name, or on the path below the folder if it contains a `/`; its first group
                is the subject reference, which photos get that have none yet.
            person_prefix: put before each subject reference.
            follow_links: import what symbolic links lead to.
            replace_changed: take the new content of photos that changed since their import.

        Returns:
            The result with the counts imported, present, changed, replaced, named, absent, skipped, erased, retracted,
            subjects and granted.

        Raises:
            ConfigError: no such folder, no photos in it, an invalid regex, or a corpus outside the lake; or the lake is
                the demo's, and the config names no impact assessment.
            Refused: a withdrawn dataset.
        """
        require_assessment_to_import(self.config)
        refuse_before_lake(self.config, grant)
        with self._write("import", must_exist=False) as context:
            return import_folder(
                context,
                str(folder),
                source=source,
                person_from=person_from,
                person_prefix=person_prefix,
                grant=grant,
                follow_links=follow_links,
                replace_changed=replace_changed,
            )

    def nightly(
        self,
        only: Sequence[str] = (),
        *,
        rebase: bool = False,
        accept_loss: bool = False,
    ) -> RunSummary:
        """Run all stages, or some, in order. Only what is new is done; a run that was killed is continued by the next.

        Args:
            only: names of stages (admit, embed, cluster, publish, report); empty: all.
            rebase: cluster all faces again instead of only what changed.
            accept_loss: go on although most photos lost their basis since the last run.

        Raises:
            ConfigError: an unknown stage; the config names no impact assessment.
            Refused: the model's reported training lineage includes a dataset that the config does not accept.
            LedgerMoved: the ledger kept changing during the run; run again.
        """
        with private_files():
            results = run_night(
                self.config, self.on_event, only, wait_s=self.wait_s, rebase=rebase, accept_loss=accept_loss
            )
        gallery = current_gallery(self._read().lake)
        return RunSummary(self.uri, tuple(results), GalleryInfo.of(gallery.row) if gallery else None)

    def admit(self) -> RunSummary:
        """Decide for every photo whether it may be processed."""
        return self.nightly(["admit"])

    def embed(self) -> RunSummary:
        """Detect and embed the faces of admitted photos, on Ray; admission runs first."""
        return self.nightly(["embed"])

    def cluster(self, *, rebase: bool = False) -> RunSummary:
        """Group the faces, on Spark or in this process; admission runs first."""
        return self.nightly(["cluster"], rebase=rebase)

    def publish(self) -> RunSummary:
        """Assign identity ids to groups and publish a gallery version; admission runs first."""
        return self.nightly(["publish"])

    def report(self) -> RunSummary:
        """Write the HTML report, which `latest_report` reads."""
        return self.nightly(["report"])

    def latest_report(self) -> bytes:
        """Return the newest HTML report.

        Raises:
            ConfigError: there is none.
            Refused: the ledger has changed since, so that it may show people who have withdrawn.
        """
        context = self._read()
        return latest_page(context.lake, context.now)

    def check_exists(self) -> None:
        """Check that there is a lake. Nothing is written.

        Raises:
            ConfigError: there is none.
        """
        self._read()

    def check_erasure(self, request: Request) -> None:
        """Check that the lake has, or once erased, what a request names. Nothing is written.

        Raises:
            ConfigError: it has not, or the request names nothing.
        """
        refuse_unknown_targets(self._read(), request.in_order())

    def erase(self, request: Request, *, even_if_unknown: bool = False) -> Erased:
        """Remove people, photos or sources from every table, file and version, and certify it. Cannot be undone.

        Args:
            request: what to erase, for example `Request(subjects=("guest-17",))`.
            even_if_unknown: suppress references that the lake does not have, instead of refusing the request.

        Returns:
            Counts, the key of the certificate, recipients that have not acknowledged, and what is left to delete.

        Raises:
            ConfigError: an unknown reference, or copies under other ids with which the request does not say what to do.
            Corrupt: the scan found remains; no certificate is issued, and the erasure stays unfinished.
        """
        ordered = request.in_order()
        if not even_if_unknown:
            refuse_unknown_targets(self._read(), ordered)
        with self._write("erase") as context:
            return erase(context, ordered)

    def cancel_erasure(self, erasure_id: str | None = None) -> str:
        """Give an unfinished erasure up, without a certificate; what was removed stays removed. Returns its id.

        Raises:
            ConfigError: there is no such erasure, or there are several and none is named.
        """
        with self._write("erase") as context:
            return cancel_erasure(context, erasure_id)

    def verify(self, *, residual: Sequence[str] = (), audit_only: bool = False) -> Verification:
        """Check tables, files and audit trail. Writes nothing.

        Args:
            residual: identifiers to search for in every byte of the lake.
            audit_only: check only the audit trail.
        """
        context = self._read()
        findings, counts = verify(context, "audit" if audit_only else None)
        if not residual:
            return Verification(tuple(findings), {}, {}, counts)
        hits = verify_residual(context, list(residual))
        counts |= {"objects_scanned": hits.scanned, "residual_hits": sum(hits.found.values())}
        return Verification(tuple(findings), hits.found, hits.inside, counts, hits.never_erased)

    def galleries(self) -> tuple[GalleryInfo, ...]:
        """Return every published gallery version, oldest first."""
        lake = self._read().lake
        return tuple(replace(GalleryInfo.of(row), readable=is_readable(lake, row)) for row in list_galleries(lake))

    def gallery(self, version: int | None = None) -> Gallery:
        """Return the tables of a gallery version in memory; None: the newest.

        Raises:
            ConfigError: nothing was published, or no such version.
            VersionGone: its history was purged by an erasure or withdrawal.
        """
        stored = require_gallery(self._read().lake, version)
        columns = ["identity_id", "status", "size", "cohesion", "first_version", "last_version", "merged_into"]
        order = [("size", "descending"), ("identity_id", "ascending")]
        identities = stored.read("identities", [*columns, "purposes"]).sort_by(order)
        faces = stored.read("memberships", _FACE_COLUMNS).sort_by("face_id")
        return Gallery(GalleryInfo.of(stored.row), Rows(identities), Rows(faces))

    def identity(self, identity_id: str, version: int | None = None) -> Identity:
        """Return an active identity with its faces.

        Raises:
            ConfigError: nothing was published, or the identity is not active; of a merged one, the error names the
                identity that replaces it.
        """
        lake = self._read().lake
        stored = require_gallery(lake, version)
        _, rows = show(lake, identity_id, stored.version)
        return Identity(identity_id, stored.version, tuple(from_row(IdentityFace, row) for row in rows))

    def changes(self, since: int | None = None) -> Rows:
        """Return what happened to identities, with the columns of table `changes` (docs/tables.md).

        Args:
            since: the changes of the versions after this one; None: those of the newest.

        Raises:
            ConfigError: nothing was published, or no such version.
        """
        return Rows(changes_since(self._read().lake, since)[2])

    def contradictions(self, most: int = 20) -> Contradictions:
        """Return identities with photos of several subjects, and subjects with photos in several identities.

        The evidence is photos that name a subject and have exactly one face. `most` of each are listed.

        Raises:
            ConfigError: nothing was published.
        """
        context = self._read()
        return find_contradictions(context.lake, most, context.now)

    def table(self, name: str) -> Rows:
        """Return a table of results without biometric data: one of admissions, rejects, changes, identity_stats,
        reviews, drift and runs. docs/tables.md lists their columns.

        Raises:
            ConfigError: another table.
        """
        if name not in _ANALYTICS:
            raise ConfigError(
                f"no table {name!r} here", where="Lake.table", next_step=f"choose from {', '.join(_ANALYTICS)}"
            )
        return Rows(self._read().lake[name].read())

    def images(self, fates: Collection[Fate] = WITHOUT_FACES, reason: str | None = None) -> tuple[ListedImage, ...]:
        """Return photos that have no faces in the lake, with the reason.

        Args:
            fates: refused by admission, rejected by embed, missing so far; or vanished from the corpus.
            reason: only those with this reason, such as no_face; None: all.

        Raises:
            ConfigError: no such reason; or the data files that name vanished photos were deleted.
        """
        return tuple(list_images(self._read().lake, set(fates), reason))

    def explain(self, first: str, second: str | None = None) -> Explanation:
        """Explain why two faces or two identities are together or apart, by the measures of the last clustering.

        A subject alone stands for the two identities that have most faces of the subject's photos.

        Raises:
            ConfigError: an id that is neither a face nor an identity of the gallery, or nothing was clustered yet.
        """
        from facelake.stages.clustering.explain import explain  # numba takes seconds to import

        figures = explain(self._read(), first, second)
        sentences = tuple(figures.pop("said"))
        return Explanation(bool(figures["together"]), sentences, figures)

    def status(self) -> Status:
        """Return who writes the lake, the stage in progress, the last runs, tables and gallery. Writes nothing."""
        return from_row(Status, status(self.config))

    def follow(self, operation: Callable[[Lake], T]) -> Following[T]:
        """Run an operation in a thread and iterate over its events; `on_event` gets them too.

            run = lake.follow(lambda lake: lake.nightly())
            for event in run:
                print(event)
            summary = run.result()

        Args:
            operation: called with this lake; what it returns is the result.
        """
        return Following(lambda listener: operation(replace(self, on_event=fan_out(self.on_event, listener))))

    @property
    def _access(self) -> Access:
        return Access(self.config, self.on_event, self.wait_s)

    def _read(self) -> Context:
        return self._access.read()

    @contextmanager
    def _write(self, purpose: str, *, must_exist: bool = True) -> Iterator[Context]:
        with self._access.write(purpose, must_exist=must_exist) as context:
            yield context
