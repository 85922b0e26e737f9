import dataclasses
import math

from hypothesis import assume, given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.errors import InputError
from msl_jax.labels import UNLABELED
from msl_jax.methods.losses import DICE_SUMS, MEANS, PLAIN, Classes
from msl_jax.methods.resolve import CHOICES, LIMITS, class_weights, resolve
from msl_jax.methods.table import METHODS, ramp
from msl_jax.methods.terms import DICE_OF, TERMS
from msl_jax.methods.views import SETS

STRONG, WEAK, BOTH = ("strong",), ("weak",), ("strong", "weak")


STEPS = 100


def resolved(name, terms=None, dropout=None, **settings):
    """The method of a config with 100 steps and these settings."""
    defaults = {"name": name, "weak_weight": None, "dice": None, "terms": terms or {}, "rampup": {}}
    return resolve(defaults | settings, dropout, STEPS)


@pytest.mark.parametrize("name", METHODS)
def test_the_tables_values_are_the_defaults(name):
    clamped = dataclasses.replace(METHODS[name], rampup=dict.fromkeys(METHODS[name].rampup, STEPS))
    assert resolved(name) == clamped
    unset = dict.fromkeys(TERMS)
    assert resolved(name, unset, rampup=unset, **dict.fromkeys((*CHOICES, *LIMITS))) == clamped


@pytest.mark.parametrize("name", METHODS)
def test_the_table_is_valid(name):
    method = METHODS[name]
    assert method.terms["s"] > 0 and set(method.terms) <= set(TERMS)
    assert set(method.rampup) <= set(method.terms)
    assert all(getattr(method, key) in choices for key, choices in CHOICES.items())
    assert all(0 < weight < math.inf for weight in method.terms.values())
    assert bool(method.guide) == bool(method.guided_terms())
    assert method.previous is None or method.previous in METHODS.values()


def test_settings_replace_the_tables_values():
    table = METHODS["kl_ent"]
    method = resolved("kl_ent", {"ent": 17.0, "w": None}, kd_on="strong")
    assert method.terms == {**table.terms, "ent": 17.0} and method.kd_on == "strong"
    assert METHODS["kl_ent"] is table and table.terms["ent"] != 17.0


@pytest.mark.parametrize("name", METHODS)
def test_weak_weight_applies_only_to_methods_with_weak_labels(name):
    table, weak = METHODS[name].terms, {"w", "teacher_w"}
    weighted = {t: 0.7 if t in weak else w for t, w in table.items()}
    assert resolved(name, weak_weight=0.7).terms == weighted
    for term in weak & set(table):
        assert resolved(name, {term: 0.3}, weak_weight=0.7).terms == {**weighted, term: 0.3}


def test_a_weight_of_0_removes_the_term():
    kl = resolved("kl_ent", {"ent": 0})
    assert set(kl.terms) == {"s", "w", "kd"}
    alone = resolved("kl_ent", {"w": 0.0, "kd": 0.0, "ent": 0.0})
    assert set(alone.terms) == {"s"} and list(alone.branches()) == ["teacher"]


def test_a_term_can_be_added_to_a_method_without_it():
    method = resolved("lower_bound", {"ent": 0.3})
    assert method.terms == {**METHODS["lower_bound"].terms, "ent": 0.3}
    assert method.branches() == {"teacher": STRONG, "student": WEAK} and method.sets() == BOTH


def test_a_ramp_up_is_at_most_as_long_as_the_run():
    assert resolved("mean_teacher").rampup == {"consistency": STEPS}
    assert resolved("mean_teacher", rampup={"consistency": 7}).rampup == {"consistency": 7}
    assert resolved("mean_teacher", rampup={"consistency": 0}).rampup == {}
    assert resolved("kl_ent", rampup={"ent": 50}).rampup == {"ent": 50}


def test_a_guides_settings_replace_the_tables_values():
    method = resolved("ua_mt", dropout=0.1, ema_decay=0.5, noise=0.0, passes=2)
    assert (method.dropout, method.ema_decay, method.noise, method.passes) == (0.1, 0.5, 0.0, 2)


def test_an_unused_guide_is_removed():
    assert resolved("ua_mt", {"consistency": 0.0}) == dataclasses.replace(METHODS["lower_bound"], dropout=0.5)
    assert resolved("proposals", {"proposal": 0.0}).stages() == (METHODS["lower_bound"],)


@pytest.mark.parametrize("name", METHODS)
def test_dice_is_optional_and_changes_no_branch(name):
    method = resolved(name, {"dice": 0.5})
    assert method.terms == {**METHODS[name].terms, "dice": 0.5}
    assert method.branches() == METHODS[name].branches() and method.sets() == METHODS[name].sets()


def test_dice_goes_beside_each_cross_entropy_with_labels():
    assert resolved("kl", dice=2.0).terms == {"s": 1.0, "w": 0.05, "kd": 1.0, "dice": 2.0, "w_dice": 0.1}
    assert resolved("single", weak_weight=1.0, dice=0.5).terms["teacher_w_dice"] == 0.5
    assert resolved("kl", {"w_dice": 0.0}, dice=1.0).terms == {"s": 1.0, "w": 0.05, "kd": 1.0, "dice": 1.0}
    for name, method in METHODS.items():
        added = resolved(name, dice=1.0)
        assert added.terms.keys() == method.terms.keys() | {DICE_OF[term] for term in DICE_OF if term in method.terms}
        assert added.branches() == method.branches() and added.sets() == method.sets()


def test_stages():
    assert METHODS["proposals"].stages() == (METHODS["lower_bound"], METHODS["proposals"])
    assert METHODS["bcp"].stages() == (METHODS["copy_paste"], METHODS["bcp"])
    assert METHODS["dmsps"].stages() == (METHODS["dmsps_first"], METHODS["dmsps"])
    for name in set(METHODS) - {"proposals", "bcp", "dmsps"}:
        assert METHODS[name].stages() == (METHODS[name],)


def test_settings_of_labels_dice_and_batch_norm_apply_to_the_stage_before():
    first, second = resolved("dmsps", weak_weight=0.25, batch_norm="together").stages()
    assert (first.terms["w"], first.terms["teacher_w"], first.terms["s"]) == (0.25, 0.25, 1.0)
    assert first.batch_norm == second.batch_norm == "together"
    before = resolved("proposals", dice=0.5, dice_sums="images").previous
    assert before.terms == {"s": 1.0, "dice": 0.5} and before.dice_sums == "images"
    assert resolved("bcp", dice=0.5).previous == METHODS["copy_paste"]  # which has a Dice term


def test_a_stage_that_continues_keeps_the_one_before_without_a_guide():
    without = resolved("bcp", {"proposal": 0.0, "proposal_dice": 0.0})
    assert without.guide is None and without.stages() == (METHODS["copy_paste"], without)
    assert resolved("proposals", {"proposal": 0.0}).stages() == (resolved("proposals", {"proposal": 0.0}),)


@pytest.mark.parametrize(
    ("name", "terms", "settings", "words"),
    [
        ("kl_entt", {}, {}, ["config.method.name", "'kl_entt'", *METHODS]),
        ("kl", {"entropy": 1.0}, {}, ["config.method.terms", "'entropy'", *TERMS]),
        ("kl", {"w": -0.1}, {}, ["config.method.terms.w", "-0.1"]),
        ("kl", {"kd": math.nan}, {}, ["config.method.terms.kd", "nan"]),
        ("kl", {"kd": math.inf}, {}, ["config.method.terms.kd", "inf"]),
        ("kl", {"s": 0.0}, {}, ["config.method.terms.s"]),
        ("kl", {}, {"dice": -1.0}, ["config.method.dice", "-1.0", "at least 0"]),
        ("lower_bound", {}, {"weak_weight": 0.0}, ["config.method.weak_weight", "0.0", "above 0"]),
        ("kl", {"consistency": 1.0}, {}, ["config.method.terms.consistency", "'kl'", "mean_teacher", "ua_mt"]),
        ("single", {"teacher_cross": 1.0}, {}, ["config.method.terms.teacher_cross", "student", "'single'"]),
        ("mean_teacher", {"proposal": 1.0}, {}, ["config.method.terms.proposal", "proposals"]),
        ("kl", {}, {"kd_on": "all"}, ["config.method.kd_on", "'all'", *SETS]),
        ("kl", {}, {"kd_on": ""}, ["config.method.kd_on", *SETS]),
        ("kl", {}, {"w_on": "none"}, ["config.method.w_on", *SETS]),
        ("kl", {}, {"w_mean": "slices"}, ["config.method.w_mean", "'slices'", *MEANS]),
        ("kl", {}, {"batch_norm": "none"}, ["config.method.batch_norm", "'none'", "together, apart"]),
        ("lower_bound", {}, {"batch_norm": "apart"}, ["config.method.batch_norm", "'lower_bound'"]),
        ("lower_bound", {}, {"kd_on": "both"}, ["config.method.kd_on", "'lower_bound'", "terms are s"]),
        ("kl", {"kd": 0.0}, {"kd_on": "weak"}, ["config.method.kd_on", "terms are s, w"]),
        ("kl", {"dice": 1.0}, {"dice_sums": "slices"}, ["config.method.dice_sums", "'slices'", *DICE_SUMS]),
        ("kl", {}, {"dice_sums": "images"}, ["config.method.dice_sums", "s, w, kd"]),
        ("single", {}, {"w_mean": "images"}, ["config.method.w_mean", "s, teacher_w"]),
        ("kl", {}, {"rampup": {"ent": 5}}, ["config.method.rampup.ent", "s, w, kd"]),
        ("kl", {}, {"rampup": {"kd": -5}}, ["config.method.rampup.kd", "-5"]),
        ("kl", {}, {"ema_decay": 0.9}, ["config.method.ema_decay", "'kl'", "mean_teacher", "ua_mt"]),
        ("proposals", {}, {"ema_decay": 0.9}, ["config.method.ema_decay", "'proposals'"]),
        ("mean_teacher", {}, {"passes": 4}, ["config.method.passes", "ua_mt"]),
        ("ua_mt", {}, {"passes": 0}, ["config.method.passes", "is 0", "from 1"]),
        ("ua_mt", {}, {"ema_decay": 1.0}, ["config.method.ema_decay", "is 1.0", "below 1"]),
        ("ua_mt", {}, {"noise": -0.1}, ["config.method.noise", "is -0.1"]),
    ],
)
def test_invalid_settings_raise(name, terms, settings, words):
    with pytest.raises(InputError) as error:
        resolved(name, terms, **settings)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_class_weights_default_to_1():
    assert class_weights({}, ["RV", "LV"]) == class_weights({"LV": 1, "background": 1.0}, ["RV", "LV"]) == {}
    weights = class_weights({"LV": 2, "background": 0}, ["RV", "LV"])
    assert list(weights.items()) == [("background", 0.0), ("RV", 1.0), ("LV", 2.0)]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"LW": 2.0}, ["'LW'", "background, RV, LV"]),
        ({"MYO": 2.0}, ["'MYO'", "background, RV, LV"]),
        ({"LV": -1.0}, ["LV", "-1.0", "at least 0"]),
        ({"LV": math.nan}, ["LV", "nan"]),
        ({"LV": math.inf}, ["LV", "inf"]),
        ({"LV": "2"}, ["LV", "'2'", "a number"]),
        ({"LV": None}, ["LV", "None", "a number"]),
        ({"background": 0, "RV": 0, "LV": 0.0}, ["all are 0", "above 0"]),
        ("LV=2", ["'LV=2'", "{'RV': 2}"]),
        (None, ["None", "{'RV': 2}"]),
    ],
)
def test_invalid_class_weights_raise(setting, words):
    with pytest.raises(InputError) as error:
        class_weights(setting, ["RV", "LV"])
    message = str(error.value)
    assert message.startswith("config.method.class_weights: ") and "\n" not in message
    assert all(word in message for word in words)


def test_the_image_sets_of_each_branch():
    assert METHODS["lower_bound"].branches() == METHODS["upper_bound"].branches() == {"teacher": STRONG}
    assert METHODS["lower_bound"].sets() == METHODS["upper_bound"].sets() == STRONG
    assert METHODS["upper_bound"].all_strong and not METHODS["lower_bound"].all_strong
    for name in ("single", "proposals", "entropy_min", "mean_teacher", "ua_mt"):
        assert METHODS[name].branches() == {"teacher": BOTH} and not METHODS[name].watched()
    assert METHODS["cps"].branches() == {"teacher": BOTH, "student": BOTH} and not METHODS["cps"].watched()
    for name in ("decoupled", "ent"):
        assert METHODS[name].branches() == {"teacher": STRONG, "student": BOTH} and not METHODS[name].watched()
    for name in ("kl", "kl_ent", "kl_pseudo"):
        assert METHODS[name].sets() == BOTH and METHODS[name].branches()["student"] == BOTH
        assert list(METHODS[name].branches()) == ["teacher", "student"]


@pytest.mark.parametrize("kd_on", SETS)
def test_kd_on_sets_the_images_on_which_the_teacher_is_watched(kd_on):
    """It is trained only on strong images (s); on weak ones it is only a target."""
    watched = {"strong": {}, "weak": {"teacher": WEAK}, "both": {"teacher": WEAK}}
    method = resolved("kl_ent", kd_on=kd_on)
    assert method.sets_of("kd") == SETS[kd_on]
    assert method.branches() == {"teacher": STRONG, "student": BOTH}
    assert method.watched() == watched[kd_on]


def test_without_distillation_no_branch_is_watched():
    assert resolved("kl_ent", {"kd": 0.0}).watched() == METHODS["lower_bound"].watched() == {}


def test_a_method_without_terms_on_weak_images_uses_none():
    method = resolved("kl", {"w": 0.0}, kd_on="strong")
    assert method.sets() == STRONG and method.branches() == {"teacher": STRONG, "student": STRONG}


@pytest.mark.parametrize("w_on", SETS)
def test_w_on_sets_the_images_whose_weak_labels_train_the_student(w_on):
    method = resolved("kl_ent", w_on=w_on, kd_on="weak")
    assert method.sets_of("w") == SETS[w_on]
    assert method.branches()["student"] == (WEAK if w_on == "weak" else BOTH)


UNGUIDED = sorted(name for name, term in TERMS.items() if name != "s" and not term.guide_targets)
OF_BOTH = {"mixture_hard", "mixture_soft"}
OF_STUDENT = {"w", "kd", "ent", "pseudo", "student_s", "student_cross", "w_dice", "student_s_dice", *OF_BOTH}
OF_STUDENT |= {"student_proposal", "student_proposal_dice"}


@given(
    st.sampled_from(sorted(METHODS)),
    st.dictionaries(st.sampled_from(UNGUIDED), st.sampled_from([None, 0.0, 0.1, 5.0])),
    st.sampled_from(list(SETS)),
)
def test_every_term_has_its_images_in_every_branch_it_uses(name, terms, kd_on):
    overrides = {term: weight for term, weight in terms.items() if weight is not None}
    used = {term for term, weight in {**METHODS[name].terms, **overrides}.items() if weight}
    assume(OF_STUDENT & used or "teacher_cross" not in used)
    method = dataclasses.replace(resolved(name, terms), kd_on=kd_on)
    branches = method.branches()
    assert 0.0 not in method.terms.values()
    for term in method.terms:
        assert set(method.sets_of(term)) <= set(method.sets())
        assert all(set(method.sets_of(term)) <= set(branches[branch]) for branch in TERMS[term].branches)
        for branch in TERMS[term].watches:
            assert set(method.sets_of(term)) <= {*branches[branch], *method.watched().get(branch, ())}
    assert not any(set(branches[branch]) & set(sets) for branch, sets in method.watched().items())
    assert set(branches) == {branch for term in method.terms for branch in TERMS[term].branches}
    assert ("student" in branches) == bool(OF_STUDENT & set(method.terms))


def test_each_term_trains_its_branch():
    """It depends only on its own labels; class weights affect only cross-entropies with annotations or proposals."""
    generator = np.random.default_rng(0)
    logits = {b: jnp.array(generator.normal(size=(2, 3, 3, 2)), jnp.float32) for b in ("teacher", "student")}
    maps = {k: jnp.array(generator.integers(0, 2, (2, 3, 3)), jnp.int32) for k in ("label", "weak_label", "proposal")}
    maps["certain"] = jnp.where(maps["proposal"] == 1, 0, UNLABELED)
    maps["target"] = jax.nn.softmax(logits["student"])
    reads = {name: set() for name in TERMS}
    reads |= {"s": {"label"}, "student_s": {"label"}, "w": {"weak_label"}, "teacher_w": {"weak_label"}}
    reads |= {
        "consistency": {"target", "certain"},
        "proposal": {"proposal"},
        "dice": {"label"},
        "w_dice": {"weak_label"},
        "student_s_dice": {"label"},
        "teacher_w_dice": {"weak_label"},
        "student_proposal": {"proposal"},
        "proposal_dice": {"proposal"},
        "student_proposal_dice": {"proposal"},
        "perturbed_dice": {"proposal"},
    }
    weighted = {"s", "student_s", "w", "teacher_w", "proposal", "student_proposal"}
    for name, term in TERMS.items():
        mean, draw = METHODS["kl"].mean_of(name), jax.random.key(0)
        value, gradient = jax.value_and_grad(term.loss)(logits, maps, mean, PLAIN, draw)
        assert (term.loss(logits, maps, mean, Classes((1.0, 5.0)), draw) != value) == (name in weighted), name
        if term.label_map:
            divisors = [term.divisor(maps[term.label_map], mean, classes) for classes in (PLAIN, Classes((1.0, 5.0)))]
            assert (divisors[0] != divisors[1]) == (name in weighted), name
        trained = {"teacher", "student"} if name in OF_BOTH else {"student" if name in OF_STUDENT else "teacher"}
        assert {branch for branch, g in gradient.items() if g.any()} == trained == set(term.branches)
        for key, other in maps.items():
            swapped = jnp.where(other == 0, UNLABELED, 0) if key == "certain" else 1 - other
            changed = term.loss(logits, maps | {key: swapped}, mean, PLAIN, draw)
            assert (changed != value) == (key in reads[name]), (name, key)


def test_ramp_up():
    """exp(-5 (1 - t)^2): e^-5 at the start, e^-1.25 halfway, 1 from the end on."""
    for step, expected in ((0, math.exp(-5)), (50, math.exp(-1.25)), (100, 1.0), (170, 1.0)):
        assert float(ramp(jnp.int32(step), 100)) == pytest.approx(expected, rel=1e-6)
    assert float(ramp(jnp.int32(0), 0)) == 1.0
