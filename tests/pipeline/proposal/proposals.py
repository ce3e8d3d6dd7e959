"""Proposals for folders, and the files that are written for them."""

import tomllib

from recdistill.pipeline.proposal.data_proposal import propose
from recdistill.pipeline.proposal.proposed_config import check_config, config_text
from recdistill.pipeline.proposal.questions import Answers
from recdistill.pipeline.proposal.source_tables import open_source
from tests.pipeline.proposal import layouts


def proposed(folder, **answers):
    return propose(open_source(folder), Answers(**{"defaults": True, **answers}))


def document(folder, **answers):
    """The proposed file as a document, without the path and the gate."""
    proposal = proposed(folder, **answers)
    assert proposal.questions == []
    text = config_text(proposal, "run", folder / "run.toml")
    check_config(proposal, text)
    found = tomllib.loads(text)
    assert found.pop("name") == "run"
    assert found.pop("distill") == {"gate": "warn"}
    return found


def left_out(proposal):
    """Reasons of the columns that are not used."""
    return {use.profile.name: use.reason for use in proposal.uses if not use.use}


def log(extra="", values=lambda k, u, i: ""):
    """Lines of interactions with more columns."""
    header = "user_id,item_id,timestamp" + extra
    rows = enumerate(layouts.rows())
    return [header, *(f"u{u},{i},{t}{values(k, u, i)}" for k, (u, i, t) in rows)]
