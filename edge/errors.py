"""Every failure that a user can meet, as typed exceptions.

An error is raised where it is known and rendered once by the door the request came in by: the
HTTP door turns `code` into a status, the CLI prints `Error:` and `Try:`. Errors also cross the
process border between a model worker and the daemon, as `(code, message, param)`.
"""

from __future__ import annotations

from typing import ClassVar


class EdgeError(Exception):
    """Base of all errors meant for users.

    code: stable, machine-readable name. callers_fault: the same request will never do.
    message: one sentence for a person.
    param: the request field or config key at fault. hint: what to try.
    retry_after: seconds after which the same request may succeed, None when retrying is useless.
    """

    code: ClassVar[str] = "internal_error"
    callers_fault: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.hint = hint
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        return self.retry_after is not None


class InvalidRequest(EdgeError):
    """The caller's fault: a field of the wrong type, out of range, or unknown."""

    code = "invalid_request_error"
    callers_fault = True


class UnsupportedParameter(InvalidRequest):
    """A field that exists in the API and that this appliance cannot honour."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for one answer token in the model's context."""

    code = "context_length_exceeded"


class InvalidKey(EdgeError):
    """The request has no key, or none that opens this door."""

    code = "invalid_api_key"
    callers_fault = True


class Forbidden(EdgeError):
    """The key is good, and not for this."""

    code = "permission_denied"
    callers_fault = True


class BadCertificate(EdgeError):
    """A certificate or its key is missing, does not fit or has ended."""

    code = "bad_certificate"


class KeyExists(EdgeError):
    """A key of that name is there already."""

    code = "key_exists"


class KeyNotFound(EdgeError):
    """No key has that name."""

    code = "key_not_found"


class ModelNotFound(EdgeError):
    """No model of that name is served here. Never answered by a substitute."""

    code = "model_not_found"
    callers_fault = True


class NotFound(EdgeError):
    """There is no such route."""

    code = "not_found"
    callers_fault = True


class MethodNotAllowed(EdgeError):
    """The route exists and has other methods."""

    code = "method_not_allowed"
    callers_fault = True


class PayloadTooLarge(EdgeError):
    """The body is larger than `limits.max_body_mb`."""

    code = "payload_too_large"
    callers_fault = True


class DeadlineExceeded(EdgeError):
    """The caller's deadline passed before the answer was complete."""

    code = "deadline_exceeded"


class RequestTimeout(EdgeError):
    """The client did not send its request in time."""

    code = "request_timeout"


class Overloaded(EdgeError):
    """Too many requests wait already, or this one has waited for too long."""

    code = "overloaded"


class ModelLoading(EdgeError):
    """The model is not ready yet: it loads, or its worker restarts."""

    code = "loading"


class NoRoute(EdgeError):
    """No target that the request allows can answer it."""

    code = "no_route"


class UpstreamError(EdgeError):
    """A cloud model cannot be reached, refuses us, or answers with something that is no answer.

    again: the same call may do if it is made once more, at the same model and at once.
    reached: False where nothing got there.
    """

    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        again: bool = False,
        reached: bool = True,
    ) -> None:
        super().__init__(message, param=param, hint=hint, retry_after=retry_after)
        self.again = again
        self.reached = reached

    @property
    def retryable(self) -> bool:
        return True


class UpstreamTimeout(UpstreamError):
    """A cloud model was too slow to be reached, to begin, to go on, or to end."""

    code = "upstream_timeout"


class RateLimited(EdgeError):
    """Too many requests in too short a time, said by us or by a cloud model."""

    code = "rate_limit_exceeded"


class UpstreamRefusal(EdgeError):
    """A cloud model says that the request itself is at fault: another one would say so too."""

    code = "invalid_request_error"
    callers_fault = True


class UpstreamTooLarge(UpstreamRefusal):
    """It is too large for a cloud model."""

    code = "payload_too_large"


class UpstreamUnprocessable(UpstreamRefusal):
    """A cloud model understands the request and cannot do it."""

    code = "unprocessable_request"


class ContentFiltered(EdgeError):
    """A cloud model's policy refuses this content. It is not tried elsewhere."""

    code = "content_filter"
    callers_fault = True


class InternalError(EdgeError):
    """A fault of the appliance itself; the details are in the log."""

    code = "internal_error"


class WorkerCrashed(EdgeError):
    """The model's worker process died twice while it ran this request."""

    code = "worker_crashed"


class InferenceFailed(EdgeError):
    """onnxruntime could not compute what the model was given, or it came to too much."""

    code = "inference_failed"


class ModelLoadFailed(EdgeError):
    """The file could not be loaded, or the memory did not suffice."""

    code = "model_load_failed"


class OutOfMemory(ModelLoadFailed):
    """The model does not fit into the memory that is available now."""

    code = "out_of_memory"


class BadModelFile(EdgeError):
    """The file is truncated, foreign or not what its name or digest promises."""

    code = "bad_model_file"


class ModelInUse(EdgeError):
    """A running daemon serves this file, so it cannot be removed or moved now."""

    code = "model_in_use"


class SwitchRunning(EdgeError):
    """A name is on its way to another version already."""

    code = "switch_running"


class NotSwitchable(EdgeError):
    """The name stands for a file without versions."""

    code = "not_switchable"
    callers_fault = True


class SwitchRefused(EdgeError):
    """A new version did not come into service, or was taken out of it again."""

    code = "switch_refused"


class PullFailed(EdgeError):
    """A model could not be fetched from its source."""

    code = "pull_failed"


class BundleRefused(EdgeError):
    """A bundle is unsigned, altered, not for this machine, or older than what it has."""

    code = "bundle_refused"


class FetchFailed(EdgeError):
    """A bundle could not be fetched to its end. What came is kept, and the next try goes on."""

    code = "fetch_failed"


class UpdateRunning(EdgeError):
    """Somebody else installs another version at this moment."""

    code = "update_running"


class UpdateFailed(EdgeError):
    """Another version was not installed, or did not answer: the one before is in use."""

    code = "update_failed"


class BackupRefused(EdgeError):
    """A backup is damaged, or not for this software; or it would replace what must not be."""

    code = "backup_refused"


class QueueFull(EdgeError):
    """The queue holds as many unfinished jobs, or as many bytes of them, as it may."""

    code = "queue_full"


class StoreFull(QueueFull):
    """The disk has no room for one more write. Nothing of it was kept; later ones may succeed."""


class StoreBroken(EdgeError):
    """The disk or the file refused a write or a read, or the store is closed.

    After a failed sync it is unknown whether the write survives a power cut: all of it or nothing.
    """

    code = "store_broken"


class AuditBroken(EdgeError):
    """The audit log was changed, or cannot be read or written."""

    code = "audit_broken"


class StoreInUse(EdgeError):
    """Another process keeps this file; two owners would take each other's jobs."""

    code = "store_in_use"


class StoreTooNew(EdgeError):
    """The file was written by a later version of this software. It is left as it is."""

    code = "store_too_new"


class JobNotFound(EdgeError):
    """There is no job of that id, or its result was kept for long enough and is gone."""

    code = "job_not_found"
    callers_fault = True


class FileNotFound(EdgeError):
    """There is no file of that id, or it was kept for long enough and is gone."""

    code = "file_not_found"
    callers_fault = True


class FileInUse(EdgeError):
    """A batch that has not ended needs the file."""

    code = "file_in_use"


class BatchNotFound(EdgeError):
    """There is no batch of that id, or it ended long ago."""

    code = "batch_not_found"
    callers_fault = True


class IdempotencyKeyReused(EdgeError):
    """The same idempotency key came with another body."""

    code = "idempotency_key_reused"
    callers_fault = True


class IdempotencyKeyInUse(EdgeError):
    """The first request with this idempotency key is still being answered."""

    code = "idempotency_key_in_use"


class ConfigError(EdgeError):
    """The configuration cannot be used. Exit code 2, so that systemd does not restart on it."""

    code = "config_error"


def _tree(cls: type[EdgeError]) -> list[type[EdgeError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in _tree(child))]


def from_code(code: str, message: str, param: str | None = None) -> EdgeError:
    """The exception for an error that crossed the process border as plain fields."""
    for cls in _tree(EdgeError):
        if cls.code == code:
            return cls(message, param=param)
    return InternalError(message, param=param)
