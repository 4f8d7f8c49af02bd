"""How attacks of a benchmark came nearer, pass by pass: a file of the result store for each task."""

from __future__ import annotations

import pyarrow as pa
import torch

from absynth.attacks.course import Course
from absynth.errors import AbsynthError, first_line
from absynth.evaluate.store import ResultStore, from_parquet, to_parquet
from absynth.evaluate.tasks import Task

FOLDER = "courses"
"""Of the result store."""

SCHEMA = pa.schema([("index", pa.int64()), ("passes", pa.int64()), ("distance", pa.float64())])


def is_done(store: ResultStore, task: Task, *, courses: bool) -> bool:
    """Whether a store holds all of a task that a benchmark asks for.

    Args:
        store: The store.
        task: Of the benchmark.
        courses: Whether its course is asked for, too.
    """
    return store.has(task) and (not courses or store.has_file(FOLDER, file_of(task.key)))


def file_of(key: str) -> str:
    """The name of a task's file, by the task's key."""
    return f"{key}.parquet"


def put_course(store: ResultStore, task: Task, course: Course) -> None:
    """Writes the course of a task.

    Args:
        store: Where to.
        task: What was run.
        course: What came of it; its rows are those of the task's images.
    """
    indices = torch.tensor(task.indices)[course.rows]
    columns = [indices.numpy(), course.passes.numpy(), course.distances.numpy()]
    store.write(FOLDER, file_of(task.key), to_parquet(pa.table(columns, schema=SCHEMA)))


def read_course(store: ResultStore, task: Task) -> Course:
    """The course of a task.

    Raises:
        AbsynthError: If the file is missing or damaged, or of other images.
    """
    file = file_of(task.key)
    try:
        content = store.read(FOLDER, file)
    except OSError as error:
        raise store.damaged(f"{FOLDER}/{file}", error) from None
    whole = course_from(content, f"{FOLDER}/{file}")
    course = whole.of(task.indices)
    if len(course.rows) < len(whole.rows):
        raise store.damaged(f"{FOLDER}/{file}", "other images")
    return course


def course_from(content: bytes, path: str) -> Course:
    """The course in a file, whose rows are the indices of the images in the data set.

    Args:
        content: Of the file.
        path: What to call the file in a message.

    Raises:
        AbsynthError: If the file is damaged.
    """
    try:
        table = from_parquet(content, SCHEMA)
        indices, passes, distances = (torch.tensor(table.column(name).to_numpy()) for name in SCHEMA.names)
        return Course(indices, passes, distances)
    except Exception as error:  # whatever Arrow may meet in a damaged file
        raise AbsynthError(
            f"The course {path} is damaged ({first_line(error)}); delete it to run it again."
        ) from None
