"""One sitting of a run: from its folder, locked, to the end of training, to a signal, or to an error."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from tfs_core.config import resolved, to_yaml
from tfs_core.contracts import RunContext
from tfs_core.data.batches import evaluation_batches
from tfs_core.data.bigram import bigram_bits_per_byte
from tfs_core.data.stream_batches import StreamBatches
from tfs_core.durable import write_durably
from tfs_core.training.checkpoint import CheckpointKeeper, restore_checkpoint
from tfs_core.training.checkpoint_folder import checkpoint_step, list_checkpoints
from tfs_core.training.components import build_loggers, build_optimizer, build_schedule, plugin_versions
from tfs_core.training.logger import Loggers
from tfs_core.training.memory import enough_memory
from tfs_core.training.preparation import Prepared
from tfs_core.training.random_state import restore_random_state, set_seed
from tfs_core.training.resume import Origin, differences_of_machine, versions_now
from tfs_core.training.run_folder import RunFolder
from tfs_core.training.samples import write_samples
from tfs_core.training.stop_signal import StopSignal
from tfs_core.training.trainer import Progress, Trainer


class Sitting:
    """Brings together what a run needs, trains, and keeps loggers and `run.json` told."""

    def __init__(
        self,
        prepared: Prepared,
        origin: Origin | None,
        changed: Mapping[str, Any],
        run_folder: RunFolder,
        report: Callable[[str], None],
    ) -> None:
        self.prepared = prepared
        self.origin = origin
        self.changed = changed
        self.run_folder = run_folder
        self.report = report

    def train(self, stop: StopSignal) -> str:
        """Train, and return `finished` or `stopped`; what is raised is first told to the loggers."""
        prepared, config = self.prepared, self.prepared.config
        set_seed(config.seed)
        optimizer = build_optimizer(config.training, prepared.model)
        progress = Progress()
        if self.origin is not None:
            restore_checkpoint(self.origin.checkpoint, model=prepared.model, optimizer=optimizer)
            progress = Progress(**self.origin.state["progress"])
        write_durably(self.run_folder.folder / "config.yaml", to_yaml(config).encode())
        self.run_folder.write_info(**self._info())
        context = RunContext(
            folder=self.run_folder.folder,
            name=self.run_folder.folder.name,
            config=resolved(config),
            info=self.run_folder.info,
            total_steps=prepared.plan.total_steps,
            start_step=progress.step,
        )
        built, not_built = build_loggers(config, context)
        loggers = Loggers(built, self._report_and_warn)
        self.trainer = trainer = self._trainer(optimizer, progress, loggers, stop)
        loggers.on_start()
        try:
            for message in not_built:
                self._report_and_warn(message)
            self._tell_how_it_starts()
            if self.origin is not None:
                restore_random_state(self.origin.state["random_state"])
            with self._data_at_hand(progress.step):
                status = self._train_within_memory(trainer)
        except BaseException as error:
            status = "failed" if isinstance(error, Exception) else "stopped"
            trainer.tell(status, message=str(error) or type(error).__name__)
            loggers.on_end(status)
            raise
        trainer.tell(status)
        loggers.on_end(status)
        self.run_folder.end(status, summary=trainer.summary())
        return status

    def _train_within_memory(self, trainer: Trainer) -> str:
        with enough_memory("a training step"):
            return trainer.train()

    def _data_at_hand(self, step: int) -> AbstractContextManager[None]:
        """Within it there are batches: of a stream they are spooled as training comes to them."""
        batches = self.prepared.batches
        if not isinstance(batches, StreamBatches):
            return nullcontext()
        folder = self.run_folder.folder
        return batches.spooled(
            folder / "shards",
            step=step,
            state=None if self.origin is None else self.origin.state,
            needed_steps=lambda: [checkpoint_step(path) for path in list_checkpoints(folder / "checkpoints")],
            report=self.report,
        )

    def _trainer(
        self, optimizer: torch.optim.Optimizer, progress: Progress, loggers: Loggers, stop: StopSignal
    ) -> Trainer:
        prepared, config = self.prepared, self.prepared.config
        checkpoints = CheckpointKeeper(
            self.run_folder.folder / "checkpoints",
            keep=config.training.keep_checkpoints,
            fixed_state={
                "run": self.run_folder.folder.name,
                "fingerprints": prepared.fingerprints,
                "machine": self._machine(),
                "versions": versions_now(),
            },
            config_yaml=to_yaml(config),
            tokenizer=prepared.tokenizer,
        )
        batching = config.data.batching
        return Trainer(
            config=config.training,
            plan=prepared.plan,
            progress=progress,
            model=prepared.model,
            optimizer=optimizer,
            schedule=build_schedule(
                config.training, total_steps=prepared.plan.total_steps, warmup_steps=prepared.plan.warmup_steps
            ),
            device=prepared.machine.device,
            batches=prepared.batches,
            validation_batches=partial(
                evaluation_batches,
                prepared.data.validation,
                batching=batching,
                max_length=config.data.max_length,
                batch_size=config.training.batch_size,
                end_of_text_id=prepared.tokenizer.end_of_text_id,
                document_masks=config.data.document_masks,
            ),
            byte_lengths=prepared.tokenizer.byte_lengths(),
            write_samples=lambda step: write_samples(
                prepared.model, prepared.tokenizer, config.samples, step=step, begins_document=batching == "padded"
            ),
            run_folder=self.run_folder,
            checkpoints=checkpoints,
            loggers=loggers,
            stop=stop,
        )

    def _machine(self) -> dict[str, Any]:
        machine = self.prepared.machine
        return {
            "device": machine.device,
            "threads": machine.threads,
            "matmul": machine.matmul,
            "compiled": machine.compiled,
        }

    def _info(self) -> dict[str, Any]:
        """Return what `run.json` says of the run as it starts."""
        prepared, config = self.prepared, self.prepared.config
        info = {
            "group": config.group,
            "seed": config.seed,
            "tags": list(config.tags),
            "model": config.model.name,
            "total_steps": prepared.plan.total_steps,
            "parameters": asdict(prepared.parameters),
            "flops_per_token": prepared.model.flops_per_token(config.data.max_length),
            "bigram_bits_per_byte": bigram if math.isfinite(bigram := self._bigram()) else None,
            **self._machine(),
            "machine": prepared.machine.how,
            "plugins": plugin_versions(config),
        }
        if self.origin is not None and self.origin.run_name != self.run_folder.folder.name:
            info["forked_from"] = {"run": self.origin.run_name, "step": self.origin.state["step"]}
        return info

    def _bigram(self) -> float:
        """Return what to beat: the bits per byte of a model that has only counted pairs of tokens."""
        known = self.origin and self.origin.run and self.origin.run.info.get("bigram_bits_per_byte")
        if known:
            return float(known)
        data, tokenizer = self.prepared.data, self.prepared.tokenizer
        return bigram_bits_per_byte(data.train, data.validation, tokenizer.vocab_size, tokenizer.byte_lengths())

    def _tell_how_it_starts(self) -> None:
        if self.origin is None:
            self.trainer.tell("started")
        else:
            self._tell_where_it_resumes(self.origin)
        compilation = self.prepared.compilation
        if compilation.failure is not None:
            self._warn(compilation.failure)
        compilation.report = self._tell_not_compiled  # it may yet fail, at a shape that has not come before

    def _tell_not_compiled(self, message: str) -> None:
        """Tell that the loss is compiled no more; `run.json` and the checkpoints to come say so too."""
        machine = self.prepared.machine
        how = {**machine.how, **self.prepared.compilation.how}
        self.prepared = replace(self.prepared, machine=replace(machine, compiled=False, how=how))
        checkpoints = self.trainer.checkpoints
        checkpoints.fixed_state = {**checkpoints.fixed_state, "machine": self._machine()}
        self.run_folder.write_info(compiled=False, machine=how)
        self._report_and_warn(message)

    def _tell_where_it_resumes(self, origin: Origin) -> None:
        changed = {"changed": self.changed} if self.changed else {}
        self.trainer.tell("resumed", checkpoint=origin.checkpoint.name, **changed)
        before, now = origin.run and origin.run.info.get("total_steps"), self.prepared.plan.total_steps
        if before not in (None, now):
            self.report(f"the run has {now} steps now, not {before}: from here on its schedule is that of {now} steps")
        for problem in origin.damaged:
            self._warn(f"a newer checkpoint is passed over and put aside: {problem}")
        if other := differences_of_machine(origin.state, self._machine()):
            self._warn(f"the last bits may differ from those of a run that was never stopped: {'; '.join(other)}")

    def _warn(self, message: str) -> None:
        self.trainer.tell("warning", message=message)

    def _report_and_warn(self, message: str) -> None:
        self.report(message)  # for the logger that would have shown it may be this one
        self._warn(message)
