"""A model of sentence-transformers, built or not, and what its calls need to know of it."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dejavec.adapters.sentence_transformers.families import Family
from dejavec.errors import MissingPackageError
from dejavec.identity.encoder_settings import encoder_settings
from dejavec.identity.files import model_files
from dejavec.identity.fingerprint import sha256_of
from dejavec.identity.observed import Description, Look, observe
from dejavec.identity.wrapped import ModelChangedError, ModelSource
from dejavec.support.canonical import canonical_json
from dejavec.support.fork import make_locks_of
from dejavec.support.json_file import read_record, update_record
from dejavec.support.secret_names import without_secrets
from dejavec.support.warn import warn

MODELS_FILE = "models.json"
_COMMIT = re.compile("[0-9a-f]{40}")
_RESOLVED = frozenset({"prompts", "default_prompt_name", ".truncate_dim", ".max_active_dims"})
"""Settings that each call resolves. Where they change what is stored, they are in its identity."""


@dataclass(frozen=True)
class Facts:
    """What a call needs to know of a model, apart from its state.

    Attributes:
        name: the name of the model, for readers; None without any.
        prompts: its prompts, by name.
        default_prompt_name: the prompt of calls that name none.
        arguments: further arguments that its ``encode`` takes.
        settings: see :func:`dejavec.identity.encoder_settings.encoder_settings`.
        limit: the value of :attr:`Family.limit`.
        similarity: the name of its similarity function.
        reads_media: whether it takes images, audio or video, so that a text may be the path of a file.
        sorts: whether it encodes as the library does, sorted by length, batch by batch.
    """

    name: str | None
    prompts: dict[str, str]
    default_prompt_name: str | None
    arguments: list[str]
    settings: dict[str, Any]
    limit: int | None
    similarity: str | None
    reads_media: bool
    sorts: bool

    @classmethod
    def of(cls, model: Any, family: Family) -> Facts:
        """Return the facts of a model.

        Raises:
            TypeError: a setting has no stable form.
        """
        modalities = {part for one in model.modalities for part in ([one] if isinstance(one, str) else one)}
        name = getattr(model.config, "_name_or_path", None) if hasattr(model, "config") else None
        return cls(
            name=name if name and not Path(name).exists() else None,
            prompts=dict(model.prompts),
            default_prompt_name=model.default_prompt_name,
            arguments=sorted(model.get_model_kwargs()),
            settings=encoder_settings(model),
            limit=None if family.limit is None else getattr(model, family.limit),
            similarity=model.similarity_fn_name,
            reads_media=not modalities.isdisjoint({"image", "audio", "video"}),
            sorts=getattr(model._inference, "__func__", None) is library_class(family)._inference,
        )


class Source(ModelSource):
    """A model, or how to build it. A model that is built is read again at each call.

    Args:
        family: which encoder it is.
        model: the model, its name, or the directory that holds it.
        arguments: further arguments of the class, if a name is given.
        directory: the directory of ``models.json``.

    Attributes:
        family: as given.
        origin: ``model`` and ``arguments``, as given.

    Raises:
        TypeError: it is another encoder, or the model is given built, and arguments too.
        MissingPackageError: sentence-transformers is not installed, or too old.
    """

    def __init__(self, family: Family, model: Any, arguments: Mapping[str, Any], directory: Path) -> None:
        kind = library_class(family)
        self.family = family
        self.origin = model, dict(arguments)
        self._path = directory / MODELS_FILE
        self._model: Any = None
        self._record: dict[str, Any] | None = None
        self._recalled = False
        self._recorded_facts: Facts | None = None
        self._recorded_look: Look | None = None
        self._stand_in: Any = None
        make_locks_of(self)
        if isinstance(model, str | Path):
            return
        if not issubclass(type(model), kind):
            raise TypeError(f"expected a {family.name} or its name, found {type(model).__name__}")
        if arguments:
            raise TypeError(f"expected further arguments only with a name, found {', '.join(arguments)}")
        self._model = model

    def make_locks(self) -> None:
        """Make the lock. A forked child makes a new one."""
        self._building = threading.RLock()

    @property
    def is_built(self) -> bool:
        """Whether the model is built."""
        return self._model is not None

    @property
    def model(self) -> Any:
        """The model, which is built if necessary."""
        with self._building:
            if self._model is None:
                self._build()
        return self._model

    @property
    def reader(self) -> Any:
        """The model; or an object of its class with the recorded settings, as long as it is not built."""
        if self._model is None and self._recall() is not None:
            return self._stand_in
        return self.model

    def ready(self) -> Any:
        """Build the model if necessary, and return it.

        Raises:
            ModelChangedError: it differs from the recorded model, so the call must be prepared again.
        """
        if self._model is None:
            record = self._recall()
            model = self.model
            if record is not None and (
                Facts.of(model, self.family) != self._recorded_facts or self.look() != self._recorded_look
            ):
                raise ModelChangedError
        return self._model

    def facts(self) -> Facts:
        """Return the facts of the model, from the record before it is built.

        Raises:
            TypeError: a setting has no stable form.
        """
        if self._model is None and self._recall() is not None and self._recorded_facts is not None:
            return self._recorded_facts
        return Facts.of(self.model, self.family)

    def look(self) -> Look:
        """Return a look at the model, from the record before it is built."""
        if self._model is None and self._recall() is not None and self._recorded_look is not None:
            return self._recorded_look
        return observe(self.model, _RESOLVED).look(self.model)

    def encoding(self, look: Look) -> AbstractContextManager[None]:
        """Return a context for an inference, which records the values that it changes in the model."""
        return observe(self.model, _RESOLVED).encoding(self.model, look)

    def _build(self) -> None:
        name, arguments = self.origin
        try:
            key, files = self._key(), self._files()
        except (OSError, TypeError):
            key, files = None, {}
        import torch

        # Parameters that are made in inference mode, in which `encode` runs, could never be trained.
        with torch.inference_mode(False):
            self._model = library_class(self.family)(str(name), **arguments)
        if key is None or not (files or self._is_commit()):
            return
        look = self.look()
        facts: dict[str, Any]
        with suppress(TypeError):  # This model cannot be recorded.
            facts = asdict(Facts.of(self._model, self.family))
            record = {
                "facts": facts,
                "state": look.state,
                "description": look.description.to_json(),
                "visible": look.visible,
                "files": files,
            }
            canonical_json(record)
            if (read_record(self._path) or {}).get(key) == record:
                return
            try:
                update_record(self._path, key, record)
            except OSError as error:
                warn(f"{self._path}: cannot be written, so the next run builds the model again: {error}")

    def _recall(self) -> dict[str, Any] | None:
        """Return the record of an earlier build, if the weights are known to be the same."""
        with self._building:
            if not self._recalled:
                self._recalled = True
                with suppress(OSError, TypeError, ValueError, LookupError):  # Then the model must be built.
                    record = (read_record(self._path) or {}).get(self._key())
                    files = self._files()
                    if record is not None and files == record["files"] and (files or self._is_commit()):
                        facts = Facts(**record["facts"])
                        description = Description.from_json(record["description"])
                        look = Look(record["state"], description, bool(record["visible"]))
                        stand_in = _stand_in(self.family, facts, self.origin[1].get("device"))
                        self._recorded_facts, self._recorded_look = facts, look
                        self._record, self._stand_in = record, stand_in
            return self._record

    def _key(self) -> str:
        """Return a digest of how the model is built, without secrets.

        Raises:
            TypeError: an argument has no stable form.
        """
        import sentence_transformers

        name, arguments = self.origin
        given = without_secrets({part: value for part, value in arguments.items() if part != "device"})
        return sha256_of(
            {
                "sentence-transformers": sentence_transformers.__version__,
                "encoder": self.family.name,
                "name": str(Path(name).absolute()) if Path(name).exists() else str(name),
                "arguments": given,
            }
        )

    def _files(self) -> dict[str, str]:
        """Return the SHA-256 of each file of a local model.

        Raises:
            OSError: a file cannot be read.
        """
        return model_files([Path(self.origin[0])])

    def _is_commit(self) -> bool:
        return _COMMIT.fullmatch(str(self.origin[1].get("revision"))) is not None


def library_class(family: Family) -> Any:
    """Return the class of an encoder in sentence-transformers.

    Raises:
        MissingPackageError: sentence-transformers is not installed, or has no such class.
    """
    try:
        import sentence_transformers
    except ImportError:
        sentence_transformers = None
    kind = getattr(sentence_transformers, family.name, None)
    if not hasattr(kind, "_inference"):
        version = getattr(sentence_transformers, "__version__", None)
        raise MissingPackageError(
            f"Cached{family.name}",
            expected="sentence-transformers 6.2 or later",
            found="none" if version is None else f"sentence-transformers {version}",
            remedy="pip install 'sentence-transformers>=6.2'",
        )
    return kind


def _stand_in(family: Family, facts: Facts, device: Any) -> Any:
    """Return an object of the encoder's class that reads settings as the model does, but has no modules."""
    import torch
    from sentence_transformers.util import get_device_name

    place = torch.device(get_device_name() if device is None else device)
    kind = library_class(family)
    known = {
        "get_model_kwargs": lambda _: list(facts.arguments),
        "max_seq_length": facts.settings["max_seq_length"],
        "device": place,
    }
    stand_in: Any = object.__new__(type(kind.__name__, (kind,), known))
    torch.nn.Module.__init__(stand_in)
    stand_in.prompts = dict(facts.prompts)
    stand_in.default_prompt_name = facts.default_prompt_name
    stand_in.similarity_fn_name = facts.similarity
    if family.limit is not None:
        setattr(stand_in, family.limit, facts.limit)
    return stand_in
