"""Runs a benchmark on any engine, or goes on with one that was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from rich.progress import TaskID
from torch import Tensor, nn

from absynth.attacks.base import Attack
from absynth.attacks.course import Course
from absynth.attacks.target import private_randomness
from absynth.certify import Certifier
from absynth.engine import Engine, Job, LocalEngine, run_jobs
from absynth.errors import AbsynthError
from absynth.evaluate.attacks import choose_attacks, named
from absynth.evaluate.candidates import check_candidate, first_images, masking_remarks
from absynth.evaluate.certification import CertificateRecord, certificate_records
from absynth.evaluate.courses import is_done, put_course, read_course
from absynth.evaluate.data import read_for
from absynth.evaluate.models import identity, load_classifier
from absynth.evaluate.proofs import ProofTask, has_proof, plan_proofs, put_proof, read_proof
from absynth.evaluate.smallest import keep_smallest
from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.tasks import Chosen, Preset, Task, choose_images, data_hash, misfits, plan
from absynth.models.asked import answer
from absynth.models.pretrained import device_of
from absynth.norms import Norm
from absynth.progress import Progress
from absynth.surroundings import standard

BATCH_SIZE = 250


@dataclass(frozen=True)
class BenchmarkResult:
    """All records of a benchmark.

    Attributes:
        preset: What was run, with as many clean images as there are.
        clean_accuracy: By model, on the first ``preset.clean_images`` images of the choice.
        weights: Hash of each model.
        tasks: What the benchmark consisted of, model by model.
        records: Of every model, attack and image.
        seconds: Wall-clock time of each task, by its key; without those whose time is not known.
        remarks: What was left out or scaled while reading the data, and what is to be known of the models'
            figures, a sentence each.
        refused: By model, why it was not attacked; such a model is in nothing else here.
        broken: Why users' own attacks do not count for a model and norm, a sentence each; such an attack has
            no tasks and records of them here.
        certificates: By model, what is proven of the images; models without proofs are missing.
        courses: How each task's attack came nearer, by the task's key, where that was kept.
    """

    preset: Preset
    clean_accuracy: dict[str, float]
    weights: dict[str, str]
    tasks: list[Task]
    records: list[Record]
    seconds: dict[str, float]
    remarks: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    certificates: dict[str, list[CertificateRecord]] = field(default_factory=dict)
    courses: dict[str, Course] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """What a task came to.

    Attributes:
        records: One an image.
        adversarials: Their images.
        backwards: The backward passes that each took.
        course: How they came nearer, where that was asked for.
    """

    records: list[Record]
    adversarials: Tensor
    backwards: list[int]
    course: Course | None


def run_task(
    model: nn.Module, task: Task, images: Tensor, labels: Tensor, attack: Attack, course: bool
) -> Done:
    """Runs one task."""
    result = attack(model, images, labels, seed=task.seed, course=course)
    records = [
        Record(
            model=task.model,
            weights=task.weights,
            norm=task.norm,
            attack=task.attack,
            settings=task.settings,
            dataset=task.dataset,
            seed=task.seed,
            index=index,
            label=int(labels[row]),
            distance=float(result.distances[row]),
            queries=int(result.queries[row]),
        )
        for row, index in enumerate(task.indices)
    ]
    return Done(records, result.adversarials.cpu(), result.backwards.tolist(), result.course)


def run_proof(
    model: nn.Module, tasks: Sequence[ProofTask], images: Tensor, labels: Tensor
) -> list[list[CertificateRecord]]:
    """The certificates of some images in the norm of each task; all of them are of the same images."""
    proven = Certifier(model, tasks[0].method).certify_in(images, labels, [task.norm for task in tasks])
    return [certificate_records(one, tasks[0].indices, labels) for one in proven]


@torch.no_grad()
def count_right(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many images are classified rightly; a model that answers at random draws the same each time."""
    with standard(gradients=False), private_randomness(0, device_of(model)):
        return int((answer(model, images).argmax(1) == labels).sum())


@dataclass
class _Benchmark:
    """A benchmark under way: makes its jobs model by model, and keeps what comes of them."""

    preset: Preset
    attacks: Mapping[Norm, Sequence[Chosen]]
    store: ResultStore
    progress: Progress
    engine: Engine
    load_model: Callable[[str], nn.Module]
    bar: TaskID
    hashes: dict[str, str] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    proofs: list[ProofTask] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    broken: dict[tuple[str, Norm, str], str] = field(default_factory=dict)

    def jobs(self, images: Tensor, labels: Tensor) -> Iterator[Job]:
        """What the store does not hold yet; a model is loaded when its turn comes."""
        preset, store = self.preset, self.store
        chosen = choose_images(len(images), preset.images, preset.seed)
        clean = torch.tensor(choose_images(len(images), preset.clean_images, preset.seed))
        data = data_hash(images, labels)
        looked_at = first_images(images, preset)
        attacks = {(norm, one.name): one.attack for norm, every in self.attacks.items() for one in every}
        for number, name in enumerate(preset.models):
            self.progress.update(self.bar, note=f"loading {name}")
            try:
                model = self.load_model(name)
                candidate = check_candidate(name, model, identity(name, model), looked_at, preset)
            except AbsynthError as error:
                self._refuse(name, str(error))
                continue
            model, weights = candidate.model, candidate.weights
            self.hashes[name] = weights
            left_out = misfits(self.attacks, name, model, images.shape[1:])
            self.remarks += ((name, remark) for remark in (*candidate.remarks, *left_out))
            for kind, remarks in (("", candidate.remarks), ("-left-out", left_out)):
                if remarks:
                    store.put_json("checks", f"{weights[:24]}-{data[:24]}{kind}", {"remarks": remarks})
            tasks = plan(
                preset,
                self.attacks,
                name,
                model,
                weights=weights,
                data=data,
                indices=chosen,
                shape=images.shape[1:],
            )
            store.records(tasks)  # a damaged file is told of now, not after hours
            self.tasks += tasks
            left = len(tasks) * (len(preset.models) - number - 1)
            self.progress.update(self.bar, total=len(self.tasks) + left)
            shared = self.engine.share(model)
            file = f"{weights[:24]}-{data[:24]}-{preset.clean_images}-{preset.seed}"
            yield from self._clean_jobs(name, file, shared, images, labels, clean)
            for task in tasks:
                if name in self.refused:
                    break  # by what it answered to other images
                if is_done(store, task, courses=preset.courses):
                    self.progress.advance(self.bar)
                    continue
                rows, single = torch.tensor(task.indices), attacks[task.norm, task.attack]
                arguments = (task, images[rows], labels[rows], single, preset.courses)
                note = f"{name}, {task.norm} {task.attack}"
                refuse = partial(self._refuse_task, task)
                yield Job(note, run_task, shared, arguments, partial(self._finish_task, task), refuse)
            pieces = plan_proofs(preset, name, model, weights=weights, data=data, indices=chosen)
            yield from self._proof_jobs(name, pieces, shared, images, labels)

    def _clean_jobs(
        self, name: str, file: str, shared: Any, images: Tensor, labels: Tensor, chosen: Tensor
    ) -> Iterator[Job]:
        known = self.store.get_numbers("clean", file, ["right", "images"])
        if known is not None:
            if known[1] != len(chosen) or not 0 <= known[0] <= known[1]:
                raise self.store.damaged(f"clean/{file}.json", "other images")
            self.accuracy[name] = known[0] / known[1]
            return
        batches = chosen.split(BATCH_SIZE)
        counts: list[int] = []

        def finish(right: int, _: float) -> None:
            counts.append(right)
            if len(counts) == len(batches):
                self.store.put_json("clean", file, {"right": sum(counts), "images": len(chosen)})
                self.accuracy[name] = sum(counts) / len(chosen)

        for rows in batches:
            if name in self.refused:
                break
            note, arguments = f"{name}, clean accuracy", (images[rows], labels[rows])
            yield Job(note, count_right, shared, arguments, finish, partial(self._refuse, name))

    def _proof_jobs(
        self, name: str, pieces: Sequence[Sequence[ProofTask]], shared: Any, images: Tensor, labels: Tensor
    ) -> Iterator[Job]:
        for piece in pieces:
            self.proofs += piece
            missing = [task for task in piece if not has_proof(self.store, task)]
            if not missing or name in self.refused:
                continue
            rows = torch.tensor(piece[0].indices)
            note, arguments = f"{name}, certificates", (missing, images[rows], labels[rows])
            told = partial(self._not_certified, name)
            yield Job(note, run_proof, shared, arguments, partial(self._finish_proofs, missing), told)

    def _not_certified(self, name: str, sentence: str) -> None:
        """A model that cannot be certified after all keeps what was found by attacks."""
        remark = f"{name} was not certified: {sentence}"
        if (name, remark) not in self.remarks:
            self.remarks.append((name, remark))

    def _finish_proofs(
        self, tasks: Sequence[ProofTask], found: Sequence[list[CertificateRecord]], _: float
    ) -> None:
        for task, records in zip(tasks, found, strict=True):
            put_proof(self.store, task, records)

    def _refuse(self, name: str, sentence: str) -> None:
        """Leaves a model out, whatever of it is done; the first sentence stands."""
        self.refused.setdefault(name, sentence.replace("The model", name, 1))

    def _refuse_task(self, task: Task, sentence: str) -> None:
        """Leaves a user's own attack out that breaks on a model, or else the model."""
        if sentence.startswith(f"The attack '{task.attack}'"):
            self.broken.setdefault((task.model, task.norm, task.attack), sentence)
            self.progress.advance(self.bar)
        else:
            self._refuse(task.model, sentence)

    def counts(self, task: Task) -> bool:
        """Whether neither the model nor the attack of a task was left out."""
        return task.model not in self.refused and (task.model, task.norm, task.attack) not in self.broken

    def _finish_task(self, task: Task, value: Done, seconds: float) -> None:
        if value.course is not None:
            put_course(self.store, task, value.course)
        if not self.store.has(task):
            self.store.put_json("backwards", task.key, {"backwards": value.backwards})
        self.store.put(task, value.records, value.adversarials, seconds)
        self.progress.advance(self.bar)


def run_benchmark(
    preset: Preset,
    store: ResultStore,
    progress: Progress,
    *,
    load_model: Callable[[str], nn.Module] | None = None,
    engine: Engine | None = None,
) -> BenchmarkResult:
    """Runs whatever of the preset the store does not hold yet.

    Args:
        preset: What to run.
        store: Where finished tasks are; a killed run loses at most the tasks it was at.
        progress: Where to show tasks done and left.
        load_model: How a name becomes a classifier; by default :func:`load_classifier`.
        engine: Where tasks run; by default in this process.

    Raises:
        AbsynthError: If the preset does not fit the data, a model cannot be had, the figures of every one
            would be wrong, or a file of the store is damaged.
        FailedTasksError: After all others are done, if tasks raised anything else.
    """
    dataset = read_for(preset.models, preset.dataset, "test")
    images, labels = dataset.images, dataset.labels
    preset = replace(preset, clean_images=min(preset.clean_images, len(images)))
    attacks = choose_attacks(preset)
    preset = named(preset, attacks)
    bar = progress.add_task("benchmark", total=None, note="")
    load = load_model or partial(load_classifier, size=dataset.domain.size)
    state = _Benchmark(preset, attacks, store, progress, engine or LocalEngine(), load, bar)
    run_jobs(state.engine, state.jobs(images, labels), progress, bar)
    kept = [task for task in state.tasks if state.counts(task)]
    for _, tasks in groupby(kept, lambda task: (task.model, task.norm)):
        keep_smallest(store, list(tasks))
    progress.update(bar, note="done")
    left = tuple(name for name in preset.models if name not in state.refused)
    if not left:
        raise AbsynthError(" ".join(state.refused.values()))
    preset = replace(preset, models=left)
    accuracy = {name: state.accuracy[name] for name in preset.models}
    seconds = {task.key: spent for task in kept if (spent := store.seconds(task)) is not None}
    hashes = {name: state.hashes[name] for name in preset.models}
    records = store.records(kept)
    told = (remark for name, remark in state.remarks if name not in state.refused)
    remarks = (*dataset.remarks, *told, *masking_remarks(records))
    broken = tuple(
        f"For {model} in {norm}: {sentence}"
        for (model, norm, _), sentence in state.broken.items()
        if model not in state.refused
    )
    certificates: dict[str, list[CertificateRecord]] = {}
    for proof in state.proofs:
        if proof.model not in state.refused and has_proof(store, proof):
            certificates.setdefault(proof.model, []).extend(read_proof(store, proof))
    courses = {task.key: read_course(store, task) for task in kept} if preset.courses else {}
    return BenchmarkResult(
        preset=preset,
        clean_accuracy=accuracy,
        weights=hashes,
        tasks=kept,
        records=records,
        seconds=seconds,
        remarks=remarks,
        refused=state.refused,
        broken=broken,
        certificates=certificates,
        courses=courses,
    )
