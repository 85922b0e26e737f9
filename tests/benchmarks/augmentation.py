"""Times augmentation on random patches: ways of resampling, each transform alone, and all of nnU-Net's together.

taskset -c 0 python tests/benchmarks/augmentation.py --size 96 --images 8 --rounds 30

The ways of resampling give the same images, rotated by a random angle: `map_coordinates` as in training; four gathers
from each padded image; four gathers from all of them at once, with indices flattened over the batch; one gather of
2 x 2 windows. Prints a JSON line for each: median milliseconds of the batch, of the clock and of the processor (the
same on one idle core), and seconds to compile.
"""

from msl_jax import settings
from msl_jax.system import machine, restart
from msl_jax.training import augmentation, intensity_changes

if __name__ == "__main__":
    restart.restart_on_huge_pages()

import argparse
from collections.abc import Callable
import json
import statistics
import time

import jax
import jax.numpy as jnp

NNUNET = {**settings.defaults().data.augment.to_dict(), "rotation": 180.0, "zoom": 0.4}
OFF = dict.fromkeys(NNUNET, 0)
STRENGTHS = {
    "off": {},
    "flip, rotation, zoom": {name: NNUNET[name] for name in ("flip", "rotation", "zoom")},
    "elastic": {"elastic": 0.1},
    **{t.strength: {t.strength: NNUNET[t.strength]} for t in intensity_changes.TRANSFORMS},
    "all of nnU-Net's": NNUNET,
}


def neighbours(coordinates: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """The first of two pixels along an axis of n pixels padded by 1 on both sides, and the weight of the second."""
    position = jnp.clip(coordinates + 1, 0, n + 1)
    first = jnp.minimum(jnp.floor(position), n)
    return first.astype(jnp.int32), (position - first)[..., None]


def four_gathers(image: jax.Array, coordinates: jax.Array) -> jax.Array:
    """One image (Y, X, channels)."""
    (y, down), (x, along) = (neighbours(c, n) for c, n in zip(coordinates, image.shape[:2], strict=True))
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    upper, lower = (
        padded.at[row, x].get(mode="promise_in_bounds") * (1 - along)
        + padded.at[row, x + 1].get(mode="promise_in_bounds") * along
        for row in (y, y + 1)
    )
    return upper * (1 - down) + lower * down


def flattened_gathers(images: jax.Array, coordinates: jax.Array) -> jax.Array:
    """A batch (n, Y, X, channels)."""
    n, height, width, channels = images.shape
    (y, down), (x, along) = neighbours(coordinates[:, 0], height), neighbours(coordinates[:, 1], width)
    row = width + 2
    index = jnp.arange(n)[:, None, None] * ((height + 2) * row) + y * row + x
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    upper, lower = (
        padded.at[i].get(mode="promise_in_bounds") * (1 - along)
        + padded.at[i + 1].get(mode="promise_in_bounds") * along
        for i in (index, index + row)
    )
    return upper * (1 - down) + lower * down


def window_gather(image: jax.Array, coordinates: jax.Array) -> jax.Array:
    """One image (Y, X, channels)."""
    (y, down), (x, along) = (neighbours(c, n) for c, n in zip(coordinates, image.shape[:2], strict=True))
    windows = jax.lax.gather(
        jnp.pad(image, ((1, 1), (1, 1), (0, 0))),
        jnp.stack([y, x], -1),
        jax.lax.GatherDimensionNumbers(offset_dims=(2, 3, 4), collapsed_slice_dims=(), start_index_map=(0, 1)),
        (2, 2, image.shape[-1]),
        mode="promise_in_bounds",
    )
    upper, lower = (windows[:, :, i, 0] * (1 - along) + windows[:, :, i, 1] * along for i in (0, 1))
    return upper * (1 - down) + lower * down


WAYS = {
    "map_coordinates": jax.vmap(lambda image, coordinates: augmentation.resample(image, {}, coordinates, {})[0]),
    "four gathers": jax.vmap(four_gathers),
    "four gathers, flattened": flattened_gathers,
    "window gather": jax.vmap(window_gather),
}


def timed(run: Callable, arguments: tuple, rounds: int) -> dict[str, float]:
    """Compiles and times a function."""
    start = time.perf_counter()
    compiled = jax.jit(run).lower(*arguments).compile()
    compile_s = time.perf_counter() - start
    times = []
    for _ in range(rounds + 2):
        start, cpu_start = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(*arguments))
        times.append((time.perf_counter() - start, time.process_time() - cpu_start))
    clock, cpu = (round(1000 * statistics.median(values), 2) for values in zip(*times[2:], strict=True))
    return {"median_ms": clock, "cpu_ms": cpu, "compile_s": round(compile_s, 2)}


def main() -> None:
    """Times them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    a = parser.parse_args()
    machine.set_up()
    size = (a.size, a.size)
    images = jax.random.uniform(jax.random.key(0), (a.images, *size, a.channels))
    labels = (4 * images[..., 0]).astype(jnp.int32)
    keys = jax.random.split(jax.random.key(1), a.images)

    def coordinates(key):
        geometry = augmentation.draw_geometry(key, size, OFF | {"rotation": 180.0})
        return augmentation.source_coordinates(size, size, **geometry)

    for name, way in WAYS.items():
        report = timed(lambda i, k, way=way: way(i, jax.vmap(coordinates)(k)), (images, keys), a.rounds)
        print(json.dumps({"resampling": name, **report}))
    label_maps = {"label": labels, "weak_label": labels}
    for name, strengths in STRENGTHS.items():

        def run(images, label_maps, keys, strengths=OFF | strengths):
            return augmentation.augment(images, label_maps, keys, strengths, size=size, fill_values={"label": 0})

        print(json.dumps({"transforms": name, **timed(run, (images, label_maps, keys), a.rounds)}))


if __name__ == "__main__":
    main()
