"""Decisions: which bundle of policies says what about one input.

The engine cannot leave the thread that made it, holds the interpreter's lock while it evaluates
and cannot be interrupted; a hop to another thread costs more than most decisions. So it runs
where it is called, on the event loop's own thread. Only ``allow`` with status ``complete``
allows; whatever goes wrong denies.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal, get_args

import orjson
import regorus

from caracal.errors import CaracalError

ENGINE_VERSION = f"regorus-{version('gordon-to-regorus')}"
"""Goes into audit entries: the same version replays the same decision."""

QUERY = "data.caracal.authz.result"
MAX_INPUT = 256 * 1024
MAX_RESULT = 64 * 1024
MAX_WORD = 64
StepUpType = Literal["mfa", "human_approval", "software_attestation"]
_KINDS: tuple[StepUpType, ...] = get_args(StepUpType)
STEP_UP_TYPES = frozenset(_KINDS)

# Measured: about 130 bytes of memory a byte of policy, 1 KiB for an empty one.
_BYTES_PER_BYTE = 160
_BYTES_PER_ENGINE = 16 * 1024

_log = logging.getLogger(__name__)


class PolicyCompileError(CaracalError):
    """The bundle cannot be used; the caller keeps the one before. Detail for the log only."""

    def __init__(self, description: str) -> None:
        super().__init__("policy_compile_failed", description)


@dataclass(frozen=True, slots=True)
class Bundle:
    """The policies of one policy set version, in its order, as ``(name, content)``.

    All of them passed ``check_manifest`` together.
    """

    manifest_sha256: str
    modules: tuple[tuple[str, str], ...]

    @property
    def weight(self) -> int:
        """Estimated bytes of memory of its engine."""
        return _BYTES_PER_ENGINE + _BYTES_PER_BYTE * sum(len(text) for _, text in self.modules)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a bundle said. ``step_up`` is set only on a complete ``deny`` that asks for it."""

    allowed: bool
    decision: str
    evaluation_status: str
    determining_policies: list[str | dict[str, Any]] = field(default_factory=list)
    diagnostics: list[dict[str, Any]] = field(default_factory=list)
    step_up: StepUpType | None = None


def deny(reason: str, *, status: str = "complete") -> Decision:
    """A deny that no policy spoke, e.g. ``no_active_policy_set``, ``policy_compile_failed``."""
    return Decision(False, "deny", status, diagnostics=[{"reason": reason}])


class PolicyEngines:
    """Compiled bundles of one process, the least recently used dropped first.

    Lives on the thread that made it; any other use is a bug. ``max_bytes`` bounds the estimate
    of ``Bundle.weight``; the bundle in use stays even if it alone is larger.
    """

    def __init__(self, max_bytes: int) -> None:
        self._thread = threading.get_ident()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._engines: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def load(self, bundle: Bundle) -> None:
        """Compiles ``bundle`` unless it is there. Raises PolicyCompileError."""
        self._engine(bundle)

    def evaluate(self, bundle: Bundle, policy_input: Mapping[str, Any]) -> Decision:
        """Decides on ``policy_input`` (sts.md section 14). Raises only PolicyCompileError.

        The input must be JSON: string keys, integers of at most 64 bits, no lone surrogates,
        at most 256 KiB; other input is a deny with status ``error``.
        """
        engine = self._engine(bundle)
        try:
            engine.set_input_json(_encoded(policy_input))
            return decision_of(engine.eval_rule_as_json(QUERY))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic of the engine is no Exception
            if not isinstance(error, Exception):
                self._drop(bundle.manifest_sha256)
            _log.warning("policy %s failed: %s", bundle.manifest_sha256, _line(error))
            return deny("policy_eval_failed", status="error")

    def close(self) -> None:
        """Drops all engines, on their own thread as they need it."""
        self._assert_thread()
        self._engines.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._engines)

    def __contains__(self, manifest_sha256: str) -> bool:
        return manifest_sha256 in self._engines

    def _engine(self, bundle: Bundle) -> Any:
        self._assert_thread()
        found = self._engines.get(bundle.manifest_sha256)
        if found is None:
            found = _compiled(bundle), bundle.weight
            self._engines[bundle.manifest_sha256] = found
            self._bytes += found[1]
            self._evict()
        self._engines.move_to_end(bundle.manifest_sha256)
        return found[0]

    def _evict(self) -> None:
        while self._bytes > self._max_bytes and len(self._engines) > 1:
            self._drop(next(iter(self._engines)))

    def _drop(self, manifest_sha256: str) -> None:
        _, weight = self._engines.pop(manifest_sha256)
        self._bytes -= weight

    def _assert_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("PolicyEngines used outside its thread")


def _compiled(bundle: Bundle) -> Any:
    """An engine that has evaluated once: some errors show only then."""
    if len({name for name, _ in bundle.modules}) != len(bundle.modules):
        raise PolicyCompileError("two modules share a name")
    engine = regorus.Engine()
    try:
        for name, content in bundle.modules:
            engine.add_policy(name, content)
        engine.set_input_json("{}")
        engine.eval_rule_as_json(QUERY)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic of the engine is no Exception
        del engine  # now, on its own thread: a traceback keeps it until some thread collects it
        raise PolicyCompileError(_line(error)) from None
    return engine


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _encoded(policy_input: Mapping[str, Any]) -> str:
    """As text: given objects, the engine kills the process over a lone surrogate."""
    data = orjson.dumps(policy_input)
    if len(data) > MAX_INPUT:
        raise ValueError("policy input too large")
    return data.decode()


def decision_of(text: str) -> Decision:
    """Reads the engine's result. Raises ValueError where it cannot be one.

    The engine indents, so the limit of size is one of depth too, below what an audit entry holds.
    """
    if len(text) > MAX_RESULT:
        raise ValueError("policy result too large")
    result = orjson.loads(text)
    if result == "<undefined>":
        return Decision(False, "deny", "complete")
    if not isinstance(result, dict):
        raise ValueError("policy result is not an object")
    decision = _word(result.get("decision"), "deny")
    status = _word(result.get("evaluation_status"), "error")
    complete = status == "complete"
    diagnostics = _items(result.get("diagnostics"), dict)
    if "evaluation_status" not in result:
        diagnostics.append({"reason": "the result has no evaluation_status"})
    return Decision(
        allowed=complete and decision == "allow",
        decision=decision,
        evaluation_status=status,
        determining_policies=_items(result.get("determining_policies"), (str, dict)),
        diagnostics=diagnostics,
        step_up=_step_up(diagnostics) if complete and decision == "deny" else None,
    )


def _word(value: object, default: str) -> str:
    return value[:MAX_WORD] if isinstance(value, str) else default


def _items(value: object, kinds: type | tuple[type, ...]) -> list[Any]:
    return [item for item in value if isinstance(item, kinds)] if isinstance(value, list) else []


def _step_up(diagnostics: list[dict[str, Any]]) -> StepUpType | None:
    wanted = (item.get("step_up_required") for item in diagnostics)
    return next((kind for each in wanted for kind in _KINDS if kind == each), None)
