"""The template for your own data: name your folder and its labels, and check the data with msl_jax.prepare.

Settings that are "auto" follow from the data and the machine (msl_jax/experiments/planning.py); msl_jax.prepare prints
their values, the reasons, and how long training takes. A run keeps its values on any machine.

Source: your folder.
Cost: msl_jax.prepare measures it; it says 14 minutes for ACDC on 2 CPU cores (4,000 steps), without validation.
Result: depends on the data.
Command: python -m msl_jax.main --config=configs/nifti.py --config.data.source=FOLDER --workdir=RUN
"""

from ml_collections import ConfigDict

from msl_jax import settings


def get_config(arg: str | None = None) -> ConfigDict:
    """A folder of images, masks and annotations; all other settings are those of msl_jax/settings/defaults.py."""
    config = settings.defaults()

    # Layout: folder (images/, masks/, annotations/ with equal file names), nnunet, msd, png_tree, wsl4mis or acdc.
    config.data.layout = "folder"
    config.data.source = "data/mine"
    # For folder, png_tree and wsl4mis, whose files have no label names: the structures and their values in masks and
    # annotations, and the value of unlabelled pixels.
    config.data.labels = "LV=3,MYO=2"
    config.data.unlabeled = 255
    # Cases of one patient stay together. The first group of this regular expression extracts the patient from a case's
    # name, as in r"^(patient\d+)_"; empty if every case is a different patient.
    config.data.patient = ""
    # Slices are cut across this axis of the files' x, y, z: 0, 1 or 2; auto for the one with the largest voxel size.
    config.data.axis = "auto"
    # The structures to learn: "all", or some of them, like "LV" or "LV+MYO". All others are background.
    config.data.classes = "all"

    # Roles of patients. split_sizes: number of training, validation and test patients; the last two are drawn from the
    # patients with full masks. strong: how many of the remaining patients with full masks are strong ("all", or a
    # number); all others are weak.
    config.data.split_sizes = ((None, 2, 3),)  # None: all other patients
    config.data.strong = "all"
    config.data.split_seed = 0
    # Cross-validation, for few masks: with 0/4 the test split is part 0 of 4 of the strong patients. Leave it empty for
    # msl_jax.sweep --folds=4, which trains all four and tests every strong mask once.
    config.data.fold = ""
    # Or assign roles in a CSV with the columns patient and role: strong, weak, validation, test, train (strong ones are
    # drawn from these), or empty (unused). Optional columns: group (draws are stratified by it), weak (see below), and
    # classes, the structures annotated in a patient (LV+MYO; empty for all).
    config.data.table = ""

    # Weak labels: "drawn" uses a case's annotation, else its mask, else nothing. The other recipes simulate weak labels
    # from full masks: erosion, point, centroid, scribble, box, slices, none, full.
    config.data.weak = "drawn"
    config.data.weak_background = False  # whether recipes annotate background too
    config.data.weak_radius = 3  # radius of points in pixels
    config.data.weak_every = 4  # for slices: full masks on every 4th slice

    # Slices are resampled to this pixel size in the files' unit: a number, (y, x), the median of all cases (auto), or
    # each its own (native). Training sees patches of `size`, one side or (y, x), multiples of 2^(model.depth - 1), or
    # auto, with which pixels may also become larger; a share of them is centred on labelled structures.
    config.data.spacing = "auto"
    config.data.size = "auto"
    config.data.foreground = 0.33
    # The intensities that become 0 and 1: percentiles of a volume (MRI); window, fixed values (CT, Hounsfield units);
    # zscore, a volume's mean -/+ 3 standard deviations; minmax, its smallest and largest value; or auto: for CT the
    # window between the structures' 0.5 and 99.5 % percentiles, for other images percentiles.
    config.data.normalization = "auto"
    config.data.percentiles = (1.0, 99.0)
    config.data.window = (-160.0, 240.0)
    # Turn flip off if left and right, or front and back, are different structures. Rotation is in degrees; all other
    # strengths are listed in msl_jax/training/augmentation.py.
    config.data.augment.flip = True
    config.data.augment.rotation = 30.0

    # Any method of the README. kl_ent can gain more than kl, but its entropy term may lose a structure of the student;
    # predictions use the branch with the better validation Dice.
    config.method.name = "kl"
    config.method.dice = 1.0  # weight of the soft Dice loss beside each cross-entropy
    # Weight of the weak labels: 1 if they include background, as scribbles do; 0.05 if only structures are labelled,
    # to avoid oversegmentation.
    config.method.weak_weight = 1.0

    # Channels of the finest level, and number of levels. Width 8 at size 96 trains in minutes on a laptop.
    config.model.width = "auto"
    config.model.depth = "auto"
    config.model.dtype = "float32"  # bfloat16 on a GPU or TPU

    config.optimizer.learning_rate = 2e-3
    config.train.steps = "auto"
    config.train.strong_batch = config.train.weak_batch = "auto"
    config.train.checkpoint_every = config.train.validate_every = 500
    config.eval.checkpoint = "last"  # or best, by validation Dice
    # Keep only the largest connected component of a structure: auto, where it raises validation Dice; none; largest, of
    # every structure.
    config.eval.postprocess = "auto"
    return settings.apply(config, arg)
