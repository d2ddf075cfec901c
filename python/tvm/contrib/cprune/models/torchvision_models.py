# SPDX-License-Identifier: Apache-2.0
"""torchvision models, also on a CPU build of PyTorch."""

from pathlib import Path
from types import ModuleType

import torch

from tvm.contrib.cprune.messages import first_line
from tvm.contrib.cprune.types import CPruneError


def import_torchvision() -> ModuleType:
    """Import torchvision on any build of PyTorch.

    The wheel on PyPI is built for CUDA. On a CPU build of PyTorch its C++ library does not load, and the
    import fails because ``nms`` is not defined. Declaring the schemas is enough: classification models and
    data sets never call these operators.
    """
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_library"] = library  # keeps the schemas registered
        import torchvision
    return torchvision


def torchvision_names() -> list[str]:
    """Return the names of the classification models in torchvision."""
    torchvision = import_torchvision()
    return list(torchvision.models.list_models(module=torchvision.models))


def load_torchvision(name: str, classes: int, weights: str | None = None) -> torch.nn.Module:
    """Return a torchvision classification model.

    Parameters
    ----------
    weights
        Name of torchvision's weights for the model, such as "DEFAULT"; None means random weights.

    Raises
    ------
    CPruneError
        If torchvision has no such classification model or weights, the weights have another number of
        classes, or they can neither be found nor downloaded.
    """
    torchvision = import_torchvision()
    if name not in torchvision_names():
        raise CPruneError(f"unknown model {name!r}; expected one of {', '.join(torchvision_names())}")
    options = {}
    if name in ("inception_v3", "googlenet"):
        # torchvision's weights of these networks expect images with another normalization.
        options = {"aux_logits": False, "init_weights": True, "transform_input": weights is not None}
    model: torch.nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    if weights is not None:
        state = _state_dict(torchvision, name, classes, weights)
        heads = ("AuxLogits.", "aux1.", "aux2.") if options else ()
        model.load_state_dict({key: value for key, value in state.items() if not key.startswith(heads)})
    return model


def _state_dict(torchvision: ModuleType, name: str, classes: int, weights: str) -> dict[str, torch.Tensor]:
    """Return torchvision's weights of a model, which are downloaded once."""
    known = torchvision.models.get_model_weights(name)
    if weights not in known.__members__:
        expected = ", ".join(known.__members__)
        raise CPruneError(f"{name} has no weights {weights!r}; expected one of {expected}")
    entry = known[weights]
    count = len(entry.meta["categories"])
    if count != classes:
        raise CPruneError(f"the weights {weights} of {name} have {count} classes, the data set has {classes}")
    try:
        state: dict[str, torch.Tensor] = entry.get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise CPruneError(
            f"cannot load the weights {weights} of {name} ({first_line(error)}): fetch {entry.url} to {file}"
        ) from None
    return state
