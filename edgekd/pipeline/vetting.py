"""Whether a run audits its teacher, for the methods that take no other."""

from __future__ import annotations

from ..config import RunConfig, method_config
from ..distill.vetting import needs_audit, refuse_unvetted
from ..training import Settings
from ..types import AuditReport, Model


def runs_battery(config: RunConfig) -> bool:
    """Whether public triggers are tried on the teacher.

    Never without labelled images. Unless the user decides: without a known trigger, and for a method that wants its
    teacher audited. That a given trigger does not work says nothing of others.
    """
    if config.data_free and config.test is None:
        return False
    if config.audit.canaries is not None:
        return config.audit.canaries
    return config.trigger.file is None or wants_audit(config)


def wants_audit(config: RunConfig) -> bool:
    """Whether the run's method learns from audited teachers only."""
    return needs_audit(_settings(config))


def refuse_unaudited(config: RunConfig, *, audits: bool) -> None:
    """Raise at once what the run's method would only after hours, where its teacher will not have been audited."""
    if not audits:
        refuse_unvetted(config.method, _settings(config), None)


def refuse_failed(config: RunConfig, report: AuditReport, teacher: Model) -> None:
    """Raise before anything is trained for the student what its method would raise of its teacher's audit."""
    refuse_unvetted(config.method, _settings(config), report, teacher.sha256)


def trusting(config: RunConfig, method: str) -> dict[str, object]:
    """A method's settings for a few steps that are thrown away."""
    given = config.options(method)
    return {**given, "trust_teacher": True} if "trust_teacher" in given else given


def _settings(config: RunConfig) -> Settings:
    kind = method_config(config.method)
    settings = kind.model_validate(config.options(config.method))
    assert isinstance(settings, Settings)
    return settings
