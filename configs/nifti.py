"""The template for data of your own: copy it, change what differs, and look with msl_jax.prepare before you train.

Source: your folder.
Cost: by image size and width; acdc_cpu.py and acdc.py have figures.
Result: yours.
Command: python -m msl_jax.main --config=configs/nifti.py --config.data.source=FOLDER --workdir=RUN
"""

from ml_collections import ConfigDict

from msl_jax import settings


def get_config(arg: str | None = None) -> ConfigDict:
    """A folder of images, masks and annotations; what is not named here is as in msl_jax/settings/defaults.py."""
    config = settings.defaults()

    # What lies where: folder (images/, masks/, annotations/ with equal names), nnunet, msd, png_tree, wsl4mis or acdc.
    config.data.layout = "folder"
    config.data.source = "data/mine"
    # For folder, png_tree and wsl4mis, whose files do not say: the structures and their values in masks and
    # annotations, and the value of a pixel nobody annotated.
    config.data.labels = "LV=3,MYO=2"
    config.data.unlabeled = 255
    # Cases of one patient stay together. The first group of this regular expression is the patient's name in that of
    # a case, as in r"^(patient\d+)_"; empty where every case is a patient of its own.
    config.data.patient = ""
    # Slices are cut across this axis of the files' x, y, z: the one with the largest voxels, most often 2.
    config.data.axis = 2
    # The structures to learn, all or some of them: "LV", "LV+MYO". Every other one is background.
    config.data.classes = "all"

    # Who is what for. Validation and test are drawn among the patients with full masks: how many of each, in place of
    # the zeros. The strong are drawn among the rest of those ("all", or a number), and everybody else is weak.
    config.data.split_sizes = ((None, 2, 3),)  # None: whoever is left is there to train
    config.data.strong = "all"
    config.data.split_seed = 0
    # With no masks to spare: 0/4 holds out part 0 of 4 of the strong patients as the test split. Train 1/4, 2/4 and
    # 3/4 as well, and every mask has been a test once.
    config.data.fold = ""
    # Or say it yourself: a CSV with the columns patient and role (strong, weak, validation, test; train draws the
    # strong; empty leaves out), and, as you like, group (drawn alike in every group) and weak (see below).
    config.data.table = ""

    # Where the labelled pixels of weak images come from: drawn takes annotations as they are, masks with unlabelled
    # pixels, or nothing. For experiments, from full masks: erosion, point, centroid, scribble, box, slices, none, full.
    config.data.weak = "drawn"
    config.data.weak_background = False  # recipes annotate background, too
    config.data.weak_radius = 3  # of points, in pixels
    config.data.weak_every = 4  # for slices: whole masks on every 4th

    # Side of the network's images, to which slices are resized: a multiple of 2^(model.depth - 1).
    config.data.size = 256
    # What becomes 0 and 1: percentiles of a volume (MRI); window, fixed intensities (CT, Hounsfield units); zscore,
    # three standard deviations around a volume's mean; or minmax, its least and greatest value.
    config.data.normalization = "percentiles"
    config.data.percentiles = (1.0, 99.0)
    config.data.window = (-160.0, 240.0)
    # Mirroring helps unless left and right, or front and back, are structures of their own. Degrees; shares of 1.
    config.data.augment = dict(flip=True, rotation=30.0, zoom=0.2, gamma=0.3, contrast=0.2)

    # Any of the README's methods. kl_ent gains most where its entropy suits the data, and may lose a structure where it
    # does not: look at the validation Dice of its student.
    config.method.name = "kl"
    # How much the labelled pixels of weak images count: 1 where background is labelled as well, as scribbles do; 0.05
    # where structures alone are, which would else be overdone.
    config.method.weak_weight = 1.0

    # Width 8 at size 96 trains in minutes on a laptop, 64 at 256 in hours on a GPU.
    config.model.width = 16
    config.model.depth = 5
    config.model.dtype = "float32"  # bfloat16 on a GPU or TPU

    config.optimizer.learning_rate = 2e-3
    config.train.steps = 5_000
    config.train.strong_batch = config.train.weak_batch = 4
    config.train.checkpoint_every = config.train.validate_every = 500
    config.eval.checkpoint = "last"  # or best, by validation Dice
    return settings.apply(config, arg)
