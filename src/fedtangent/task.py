"""The public path of `fedtangent.training.task`, which methods, own ones too, import."""

from fedtangent.training.task import Augmentation, Task, Weights, holding, training

__all__ = ["Augmentation", "Task", "Weights", "holding", "training"]
