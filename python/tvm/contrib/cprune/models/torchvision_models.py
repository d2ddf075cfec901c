# SPDX-License-Identifier: Apache-2.0
"""torchvision's models, on a CPU build of torch, too."""

from types import ModuleType

import torch

from tvm.contrib.cprune.types import CPruneError


def import_torchvision() -> ModuleType:
    """Import torchvision, whose wheel is made for the CUDA build of torch.

    On another build its import stops at operators that only its own C++ library would define. Declaring their
    schemas is enough: classification models and data sets never call them.
    """
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_library"] = library  # the schemas live as long as this object
        import torchvision
    return torchvision


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification models."""
    torchvision = import_torchvision()
    return list(torchvision.models.list_models(module=torchvision.models))


def load_torchvision(name: str, classes: int) -> torch.nn.Module:
    """Return a torchvision model without weights.

    Raises
    ------
    CPruneError
        If torchvision has no classification model of that name.
    """
    torchvision = import_torchvision()
    if name not in torchvision_names():
        raise CPruneError(f"unknown model {name!r}; torchvision has {', '.join(torchvision_names())}")
    options = {"aux_logits": False, "init_weights": True} if name in ("inception_v3", "googlenet") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
