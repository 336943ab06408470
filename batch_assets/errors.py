"""Every error that batch-assets raises on purpose; each one is a sentence for the person who reads it.

BatchAssetsError
├── ConfigError             what was asked for does not fit the configuration
│   ├── NoSuchPipeline
│   ├── NoSuchKind          no adapter of that kind is installed
│   ├── MissingExtra        a library that an adapter needs is not installed
│   └── PartitionOutOfRange
├── StorageError            the storage root
│   ├── AlreadyExists       an exclusive create came second
│   ├── NotFound
│   ├── LostRace            another writer appended to the numbered log first
│   ├── TornEntry           a numbered log's entry does not match its own sha256
│   ├── LostEntry           a numbered log's entry was written, and is missing or another one now
│   ├── UnreadableEntry     a numbered log's entry does not say what this release understands
│   ├── OtherLayout         written by a batch-assets that lays files out otherwise
│   └── StorageFull
├── FeaturesError           where rows come from
│   ├── SourceError         the source cannot be read or queried
│   ├── Undecodable         a message is not what the topic's settings say; it is counted
│   ├── BadKeys             null, doubled or unordered keys
│   ├── SnapshotChanged     a frozen file is no longer what was frozen
│   └── ContractBroken      the columns are not the ones that were agreed
├── ModelError              what scores them
│   ├── NoSuchModel
│   ├── MlflowUnreachable   the server that keeps an alias does not answer
│   ├── VersionExists       a version is immutable
│   ├── ModelChanged        bytes differ from those that were approved
│   ├── ApprovalInvalid     an approval without a reason or a name
│   ├── Retired             the version may not be approved any more
│   ├── Withdrawn           the approval was rolled back
│   ├── InUse               an alias or a live release needs the version
│   ├── UnsafeModel         the file is damaged, no model, or would run more than a model
│   ├── ModelMisfit         it does not take or give what its card says
│   └── ModelFails          it raises on more rows than single bad ones
├── ScoringError            a run
│   ├── CommitBroken        a committed chunk cannot be read or belongs to another plan
│   ├── ProofFailed         rows are missing, doubled or foreign; names the chunk
│   ├── OutOfMemory         not even the smallest batch fits
│   ├── DeviceLost          this process cannot use its GPU any more
│   ├── StillFailing        an error that should pass by itself did not
│   ├── PrecisionRejected   a lower precision gives other scores than was allowed
│   ├── NewRunNeeded        what is asked for is not the work of the run that is there
│   └── EngineError         the engine gave up
│       └── WorkerLost      a worker of a cluster died; another does what it had in hand
├── QualityError            what is said of it
│   ├── OverrideInvalid     nothing blocks, or an override has no reason or no name
│   └── PreflightFailed     a sample says that the night would not be good
├── ForgetError             a key cannot be forgotten
│   ├── ForgetInvalid       no reason, a reason that names the key, or what is no key
│   ├── SecretInvalid       the secret of the hashes is missing, another one, or where it must not be
│   └── AtWork              somebody works on what would be written anew
├── TableError              a day cannot be replaced in, or taken out of, a table of somebody else's
├── Blocked                 a blocking check failed; nothing after it was done
├── RunFailed               a run failed for a reason that is none of these
├── AlertFailed             a receiver could not be told; names its kind and host, never its whole address
└── ServingError            the serving table
    ├── NotPublishable      the verdict on the run is not good
    ├── ReleaseBroken       a release does not hold what its manifest says
    ├── StoreUnavailable    a store does not answer, or cannot take more; readers see what they saw
    ├── Closed              what was asked is closed already
    ├── Overloaded          as many wait for an answer as may
    ├── DeadlinePassed      there was no answer in time
    ├── NotScored           the model gives no answer to what was asked
    ├── Refused             a request over HTTP that is not answered, and its status
    └── NoPrediction        no prediction for key
"""

from collections.abc import Mapping


class BatchAssetsError(Exception):
    """The root: catching it catches everything that batch-assets raises on purpose."""


class ConfigError(BatchAssetsError):
    """What was asked for does not fit the configuration."""


class NoSuchPipeline(ConfigError):
    """No pipeline of that name is defined."""


class NoSuchKind(ConfigError):
    """No adapter of that kind is installed, or it cannot be imported."""


class MissingExtra(ConfigError):
    """A library that an adapter needs is not installed; names the extra that brings it."""


class PartitionOutOfRange(ConfigError):
    """The day is not one of the pipeline's partitions."""


class StorageError(BatchAssetsError):
    """The storage root cannot do what was asked of it."""


class AlreadyExists(StorageError):
    """An exclusive create came second."""


class NotFound(StorageError):
    """A file that should be there is not."""


class LostRace(StorageError):
    """Another writer appended to the numbered log first."""


class TornEntry(StorageError):
    """An entry of a numbered log does not match its own sha256."""


class LostEntry(StorageError):
    """An entry of a numbered log was written, and is missing or another one now."""


class UnreadableEntry(StorageError):
    """An entry of a numbered log is the one that was written, but does not say what this release understands."""


class OtherLayout(StorageError):
    """The storage root was written by a batch-assets that lays files out otherwise."""


class StorageFull(StorageError):
    """There is not enough free space."""


class FeaturesError(BatchAssetsError):
    """The rows to be scored are not in order."""


class SourceError(FeaturesError):
    """The source cannot be read or queried."""


class Undecodable(FeaturesError):
    """Of a batch of messages one cannot be decoded; a phrase that says why, as such messages are counted, not raised."""


class BadKeys(FeaturesError):
    """Keys are null, doubled or unordered; an example is such a key, one value for each of its columns (None: a null)."""

    def __init__(self, message: str, *examples: tuple[object, ...]) -> None:
        super().__init__(message)
        self.examples = examples


class SnapshotChanged(FeaturesError):
    """A frozen file is no longer what was frozen."""


class ContractBroken(FeaturesError):
    """The columns are not the ones that were agreed."""


class ModelError(BatchAssetsError):
    """The model is not in order."""


class NoSuchModel(ModelError):
    """No such model, version or alias."""


class MlflowUnreachable(ModelError):
    """The server that keeps an alias does not answer."""


class VersionExists(ModelError):
    """A version is immutable; other bytes need another version."""


class ModelChanged(ModelError):
    """The bytes differ from those that were approved."""


class ApprovalInvalid(ModelError):
    """An approval without a reason or a name."""


class Retired(ModelError):
    """The version was retired: it cannot be approved any more."""


class Withdrawn(ModelError):
    """The approval was rolled back: nothing is scored or published with it."""


class InUse(ModelError):
    """An alias or a live release needs the version."""


class UnsafeModel(ModelError):
    """The file may not be loaded: it is damaged, no model at all, or would run or take what a model must not."""


class ModelMisfit(ModelError):
    """The model does not take or give what its card says."""


class ModelFails(ModelError):
    """The model raises on more rows than single bad ones."""


class ScoringError(BatchAssetsError):
    """A run cannot go on."""


class CommitBroken(ScoringError):
    """A committed chunk cannot be read or belongs to another plan."""


class ProofFailed(ScoringError):
    """Rows are missing, doubled or foreign."""


class OutOfMemory(ScoringError):
    """Not even the smallest batch fits into the memory."""


class DeviceLost(ScoringError):
    """This process cannot use its GPU any more; a Ray worker ends itself then, and is replaced."""


class StillFailing(ScoringError):
    """An error that should pass by itself did not."""


class PrecisionRejected(ScoringError):
    """A lower precision gives other scores than was allowed."""


class NewRunNeeded(ScoringError):
    """What is asked for is not the work of the run that is there."""


class EngineError(ScoringError):
    """The engine gave up."""


class WorkerLost(EngineError):
    """A worker of a cluster died, or was taken away; another one does what it had in hand."""


class QualityError(BatchAssetsError):
    """Something about a verdict."""


class OverrideInvalid(QualityError):
    """Nothing blocks, or an override has no reason or no name."""


class PreflightFailed(QualityError):
    """A sample says that the night would not be good; not a chunk was scored."""


class ForgetError(BatchAssetsError):
    """A key cannot be forgotten."""


class ForgetInvalid(ForgetError):
    """There is no reason, the reason names the key, or what was said is no key of the pipeline."""


class SecretInvalid(ForgetError):
    """The secret by which forgotten keys are known is missing, another one, or where it must not be."""


class AtWork(ForgetError):
    """Somebody works on what would be written anew."""


class TableError(BatchAssetsError):
    """A day cannot be replaced in, or taken out of, a table of somebody else's; what it had, it has."""


class Blocked(BatchAssetsError):
    """A blocking check failed; nothing after it was done."""


class RunFailed(BatchAssetsError):
    """A run failed for a reason that is none of ours."""


class AlertFailed(BatchAssetsError):
    """A receiver could not be told."""


class ServingError(BatchAssetsError):
    """The serving table cannot do what was asked of it."""


class NotPublishable(ServingError):
    """The verdict on the run is not good."""


class ReleaseBroken(ServingError):
    """A release does not hold what its manifest says."""


class StoreUnavailable(ServingError):
    """A store does not answer, or cannot take more."""


class Closed(ServingError):
    """What was asked is closed already."""


class Overloaded(ServingError):
    """As many requests wait for an answer as may; asking again later can help."""


class DeadlinePassed(ServingError):
    """There was no answer in the time that it was worth something."""


class NotScored(ServingError):
    """The model gives no answer to a request; the others that were computed with it have theirs."""


class Refused(ServingError):
    """A request over HTTP is not answered: `status` and `headers` are what its answer has."""

    def __init__(self, message: str, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


class NoPrediction(ServingError):
    """The serving table has no prediction for the key."""
