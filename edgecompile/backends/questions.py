"""What is asked of the chosen backends' tools before any work. That all is well is kept, and asked once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from edgecompile.artifact import sha256_json
from edgecompile.backends import BACKENDS
from edgecompile.backends.base import Question
from edgecompile.backends.choice import Chosen
from edgecompile.code import package_digest
from edgecompile.errors import EdgecompileError
from edgecompile.target import Target

if TYPE_CHECKING:
    from edgecompile.session import Session


def confirmed(target: Target, chosen: Chosen, session: Session) -> Chosen:
    """`chosen` less those whose tools can't do what the target asks; the error of one that has to be there, or where
    none is left."""
    names, left_out = list(chosen.names), dict(chosen.left_out)
    for name in chosen.names:
        question = BACKENDS[name].question(target)
        try:
            if question is not None:
                _ask(question, session)
        except EdgecompileError as problem:
            if name not in chosen.optional or len(names) == 1:
                raise
            names.remove(name)
            left_out[name] = problem.message
            session.display.line(f"{name} left out: {problem.message}")
    return dataclasses.replace(chosen, names=tuple(names), left_out=left_out)


def _ask(question: Question, session: Session) -> None:
    key = sha256_json([question.text, repr(question.arguments), question.depends, package_digest()])[:32]
    known = session.cache.root / "answers" / key
    if session.cache.kept(known) is None:
        session.worker.call(question.text, question.ask, *question.arguments, report=session.display.progress)
        session.cache.keep(known, {"question": question.text})
