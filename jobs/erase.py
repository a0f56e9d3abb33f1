"""Erase: python jobs/erase.py -c conf/cluster.yaml --subject REF [--subject REF ...]"""

from __future__ import annotations

from facelake.job import arguments, config_of, terminal_of
from facelake.nightly import writing
from facelake.stages.erasure.request import Request, read_keys
from facelake.stages.erasure.stage import erase
from facelake.terminal import boundary

_KINDS = ("subject", "image", "source", "identity")


def main() -> None:
    """Parse, build, run; the exit code tells."""
    parser = arguments(__doc__)
    for what in _KINDS:
        parser.add_argument(f"--{what}", action="append", default=[], help="to erase; may be repeated")
    parser.add_argument("--purpose", help="erase only what was made for this purpose")
    parser.add_argument("--from-file", help="CSV with columns kind and key")
    said = parser.parse_args()
    terminal = terminal_of(said)
    with boundary(terminal):
        more = read_keys(said.from_file) if said.from_file else {}
        subjects, images, sources, identities = ([*getattr(said, kind), *more.get(kind, [])] for kind in _KINDS)
        request = Request.of(subjects, images, sources, identities, said.purpose)
        with writing(config_of(said), "erase", terminal.listen) as context:
            result = erase(context, request)
        terminal.result({"ok": True, **result.counts})


if __name__ == "__main__":
    main()
