# SPDX-License-Identifier: Apache-2.0
"""torchvision models, also on a CPU build of PyTorch."""

from types import ModuleType

import torch

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


def load_torchvision(name: str, classes: int) -> torch.nn.Module:
    """Return a torchvision classification model with random weights.

    Raises
    ------
    CPruneError
        If torchvision has no such classification model.
    """
    torchvision = import_torchvision()
    if name not in torchvision_names():
        raise CPruneError(f"unknown model {name!r}; expected one of {', '.join(torchvision_names())}")
    options = {"aux_logits": False, "init_weights": True} if name in ("inception_v3", "googlenet") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
