import jax
import numpy as np

from msl_jax.training.trial import STEPS, Trial, trial


def test_the_cost_of_a_run_in_one_sentence():
    text = str(Trial(compilation=30, step=0.25, memory=3 * 2**29, steps=3600))
    assert text.startswith("3600 steps of 0.25 s take about 15 min on this machine, after 30 s of compilation")
    assert "1.5 GiB of memory" in text


def test_a_trial_takes_a_few_steps_and_counts_all_stages(opened, monkeypatch):
    experiment, taken = opened("method=proposals"), []
    wait = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda state: taken.append(int(state.step)) or wait(state))
    cost = trial(experiment)
    assert taken == list(range(1, STEPS + 2)) and cost.steps == 2 * experiment.config.train.steps
    images = sum(experiment.batch_sizes(experiment.method.stages()[0]).values())
    assert cost.step > 0 and cost.memory > images / 4 * np.prod(experiment.config.data.size) * 4
