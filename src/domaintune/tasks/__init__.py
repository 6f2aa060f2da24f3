"""The six tasks by name."""

from domaintune.tasks.base import Task
from domaintune.tasks.generation import Generation
from domaintune.tasks.image_classification import ImageClassification
from domaintune.tasks.object_detection import ObjectDetection
from domaintune.tasks.text_classification import TextClassification
from domaintune.tasks.token_classification import TokenClassification
from domaintune.tasks.translation import Translation

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (TextClassification, TokenClassification, Translation, Generation, ImageClassification, ObjectDetection)
}
