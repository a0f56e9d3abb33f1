"""Commands around packs and the speed of embed: models card, bench parity, bench embed."""

from __future__ import annotations

from typing import Annotated

import typer

from facelake.cli.options import (
    ConfigOption,
    DebugOption,
    JsonOption,
    QuietOption,
    open_terminal,
    read_config,
)
from facelake.cli.tables import bench_app, models_app
from facelake.terminal import boundary

PackOption = Annotated[str, typer.Option("--pack", help="folder of an InsightFace pack")]
ImagesOption = Annotated[str, typer.Option("--images", help="folder of photos")]
AcceptOption = Annotated[str | None, typer.Option(help="accept the pack's terms: non-commercial")]


@models_app.command("card")
def models_card(
    pack: Annotated[str, typer.Argument(help="directory or s3:// of a pack: det_*.onnx and an ArcFace encoder")],
    out: Annotated[str, typer.Option(help="YAML file to write")],
    training_data: Annotated[str | None, typer.Option(help="what the encoder was trained on")] = None,
    encoder: Annotated[str | None, typer.Option(help="file name of the encoder, where it is not the only one")] = None,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Make the card of an InsightFace pack; of its files only detector and encoder are read."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.stages.lineage import load_lineages
        from facelake.stages.model_cards import card_of_pack, write_card

        settings = read_config(config, None)
        card, _ = card_of_pack(pack, settings, training_data, encoder)
        found = load_lineages(settings).of_card([], card.training_data)
        card = card.model_copy(update={"withdrawn_lineage": list(found)})
        write_card(card, out)
        lineage = ", ".join(found) or "none by the words of its training data"
        terminal.say(f"{out}: {card.title}; withdrawn lineage: {lineage}. Read it before you use it.")
        terminal.result({"ok": True, "card": out, **card.model_dump(mode="json")})


@bench_app.command("parity")
def bench_parity(
    pack: PackOption,
    images: ImagesOption,
    accept_license: AcceptOption = None,
    decode_px: Annotated[int, typer.Option(help="as embed.decode_px; 0 decodes whole, as insightface does")] = 0,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Compare a pack's faces with insightface's own, photo by photo."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.parity import parity

        settings = read_config(config, None, model__accept_license=accept_license, embed__decode_px=decode_px)
        figures = parity(settings, pack, images)
        terminal.table("parity", ["figure", "value"], [[key, value] for key, value in figures.items()])
        terminal.result({"ok": figures["agrees"], **figures})
        if not figures["agrees"]:
            raise typer.Exit(1)


@bench_app.command("embed")
def bench_embed(
    pack: PackOption,
    images: ImagesOption,
    accept_license: AcceptOption = None,
    photos: Annotated[int, typer.Option(min=1, help="photos per round, made of the folder's by shifting")] = 400,
    rounds: Annotated[int, typer.Option(min=1, help="rounds, of which medians are taken")] = 3,
    alone: Annotated[bool, typer.Option("--alone", help="only facelake: its rate and the memory it needs")] = False,
    side: Annotated[int, typer.Option(min=0, help="scale photos to this longer side; 0: as they are")] = 0,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Images per second of facelake, of insightface in a loop, and of the bare models."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.embed import Sizes, embed_rates

        settings = read_config(config, None, model__accept_license=accept_license)
        figures = embed_rates(settings, pack, images, Sizes(photos, rounds, side), alone)
        terminal.table("embed", ["figure", "value"], [[key, value] for key, value in figures.items()])
        terminal.result({"ok": True, **figures})
