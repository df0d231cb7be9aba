"""The page of reasons of conditions and events, with the doctor's advice."""

import ast
import inspect
import itertools
from collections import defaultdict
from collections.abc import Iterator

from asr_contract import errors
from asr_contract.errors import BuilderError
from asr_operator import events
from asr_operator.diagnose.explain import HINTS
from asr_operator.events import Reason
from tools.reference.markdown import escape, page, table

PLACES = {"namespace": "NAMESPACE", "name": "NAME", "job": "JOB", "look": "kubectl describe pod -n NAMESPACE POD"}
HEADER = ("reason", "meaning", "what to do")


def render() -> str:
    """The page."""
    return page(
        "Reasons",
        "Reasons appear in the conditions and events of an AsrDeployment. `asr doctor asr/NAME -n NAMESPACE` prints "
        "the advice for the current state, with names filled in. [Conditions](../concepts.md#conditions) explains the "
        "conditions themselves.",
        "## Reasons of the operator",
        table(HEADER, ((f"`{reason}`", _meanings()[reason.name], _advice(reason)) for reason in Reason)),
        "## Reasons of builds",
        "A build that fails reports the reason of its [exit code](exit-codes.md).",
        table(HEADER, _builds()),
    )


def _advice(reason: str) -> str:
    return escape(HINTS[reason].format_map(defaultdict(str, PLACES))) if reason in HINTS else ""


def _meanings() -> dict[str, str]:
    """The text below each member of `Reason`, from the source: Python does not keep it."""
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(events)).body
        if isinstance(node, ast.ClassDef) and node.name == Reason.__name__
    )
    found = {}
    for member, text in itertools.pairwise(body):
        if isinstance(member, ast.Assign) and isinstance(member.targets[0], ast.Name) and isinstance(text, ast.Expr):
            found[member.targets[0].id] = escape(str(ast.literal_eval(text.value)))
    return found


def _builds() -> Iterator[tuple[str, ...]]:
    known = {str(reason) for reason in Reason}
    for error in vars(errors).values():
        own = isinstance(error, type) and issubclass(error, BuilderError) and "reason" in vars(error)
        if own and error is not BuilderError and error.reason not in known:
            text = escape((error.__doc__ or "").partition("\n\n")[0])
            yield (f"`{error.reason}`", text, _advice(error.reason if error.reason in HINTS else Reason.BUILD_FAILED))
