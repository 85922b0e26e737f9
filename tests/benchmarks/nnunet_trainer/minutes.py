"""An nnU-Net trainer that stops after a time. ../nnunet.py sets nnUNet_extTrainer, so that nnU-Net finds it here.

nnU-Net imports every module of that folder, so this file has the folder to itself.
"""

import json
import os
import pathlib
import time

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
import torch

REPORT_EVERY = 30
"""Seconds between lines of the log."""


class nnUNetTrainerMinutes(nnUNetTrainer):
    """nnU-Net's training for `nnUNet_minutes` (environment) of wall clock, without epochs.

    Network, loss, optimizer, augmentation and the polynomial learning rate are nnU-Net's. The learning rate follows the
    elapsed share of the time instead of the epoch. There is no validation, during training or after it.
    """

    def run_training(self) -> None:
        """Trains until the time is over and writes checkpoint_final.pth and training.json.

        The clock starts when the first batch is ready. The last iteration may end after the limit.
        """
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        minutes = float(os.environ["nnUNet_minutes"])
        self.num_epochs = 60 * minutes  # of one second each, for nnU-Net's schedule
        self.on_train_start()
        self.network.train()
        iterations, elapsed, reported, losses = 0, 0.0, 0.0, []
        start = time.monotonic()
        while elapsed < self.num_epochs:
            self.lr_scheduler.step(elapsed)
            losses.append(float(self.train_step(next(self.dataloader_train))["loss"]))
            iterations += 1
            elapsed = time.monotonic() - start
            if elapsed - reported >= REPORT_EVERY:
                self.print_to_log_file(
                    f"{elapsed / 60:.1f} min, {iterations} iterations, loss {sum(losses) / len(losses):.3f}"
                )
                reported, losses = elapsed, []
        self.on_train_end()
        report = {"limit_minutes": minutes, "minutes": elapsed / 60, "iterations": iterations}
        pathlib.Path(self.output_folder, "training.json").write_text(json.dumps(report))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Does nothing: the test patients are scored instead."""
