import math

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msl_jax.checks import Refused
from msl_jax.methods import METHODS, SETS, TERMS, resolve

STRONG, WEAK, BOTH = ("strong",), ("weak",), ("strong", "weak")


@pytest.mark.parametrize("name", METHODS)
def test_the_tables_values_hold_unless_given(name):
    assert resolve(name, {}, None) == METHODS[name]
    assert resolve(name, dict.fromkeys(TERMS), None) == METHODS[name]


@pytest.mark.parametrize("name", METHODS)
def test_the_table_itself_is_sound(name):
    method = METHODS[name]
    assert method.terms["s"] > 0 and set(method.terms) <= set(TERMS) and method.kd_on in SETS
    assert all(0 < weight < math.inf for weight in method.terms.values())


def test_given_values_replace_the_tables_own():
    table = METHODS["kl_ent"]
    method = resolve("kl_ent", {"ent": 17.0, "w": None}, "strong")
    assert method.terms == {**table.terms, "ent": 17.0} and method.kd_on == "strong"
    assert METHODS["kl_ent"] is table and table.terms["ent"] != 17.0


def test_a_weight_of_0_drops_the_term():
    kl = resolve("kl_ent", {"ent": 0}, None)
    assert set(kl.terms) == {"s", "w", "kd"}
    alone = resolve("kl_ent", {"w": 0.0, "kd": 0.0, "ent": 0.0}, None)
    assert set(alone.terms) == {"s"} and list(alone.branches()) == ["teacher"]


def test_a_term_may_be_added_to_a_method_that_has_it_not():
    method = resolve("lower_bound", {"ent": 0.3}, None)
    assert method.terms == {**METHODS["lower_bound"].terms, "ent": 0.3}
    assert method.branches() == {"teacher": STRONG, "student": WEAK} and method.sets() == BOTH


@pytest.mark.parametrize(
    ("name", "terms", "kd_on", "said"),
    [
        ("kl_entt", {}, None, ["config.method.name", "'kl_entt'", *METHODS]),
        ("kl", {"entropy": 1.0}, None, ["config.method.terms", "'entropy'", *TERMS]),
        ("kl", {"w": -0.1}, None, ["config.method.terms.w", "-0.1"]),
        ("kl", {"kd": math.nan}, None, ["config.method.terms.kd", "nan"]),
        ("kl", {"kd": math.inf}, None, ["config.method.terms.kd", "inf"]),
        ("kl", {"s": 0.0}, None, ["config.method.terms.s"]),
        ("kl", {}, "all", ["config.method.kd_on", "'all'", *SETS]),
        ("kl", {}, "", ["config.method.kd_on", *SETS]),
    ],
)
def test_refused(name, terms, kd_on, said):
    with pytest.raises(Refused) as refusal:
        resolve(name, terms, kd_on)
    assert all(word in str(refusal.value) for word in said) and "\n" not in str(refusal.value)


def test_which_images_each_branch_sees():
    assert METHODS["lower_bound"].branches() == METHODS["upper_bound"].branches() == {"teacher": STRONG}
    assert METHODS["lower_bound"].sets() == METHODS["upper_bound"].sets() == STRONG
    assert METHODS["upper_bound"].all_strong and not METHODS["lower_bound"].all_strong
    assert METHODS["single"].branches() == METHODS["entropy_min"].branches() == {"teacher": BOTH}
    for name in ("decoupled", "ent"):
        assert METHODS[name].branches() == {"teacher": STRONG, "student": BOTH} and not METHODS[name].watched()
    for name in ("kl", "kl_ent", "kl_pseudo"):
        assert METHODS[name].sets() == BOTH and METHODS[name].branches()["student"] == BOTH
        assert list(METHODS[name].branches()) == ["teacher", "student"]


@pytest.mark.parametrize("kd_on", SETS)
def test_kd_on_changes_the_images_on_which_the_teacher_is_watched(kd_on):
    """It learns from strong images alone (s); where it is followed on weak ones, it is only asked for its opinion."""
    watched = {"strong": {}, "weak": {"teacher": WEAK}, "both": {"teacher": WEAK}}
    method = resolve("kl_ent", {}, kd_on)
    assert method.images("kd") == SETS[kd_on]
    assert method.branches() == {"teacher": STRONG, "student": BOTH}
    assert method.watched() == watched[kd_on]


def test_without_distillation_nobody_is_watched():
    assert resolve("kl_ent", {"kd": 0.0}, "both").watched() == METHODS["lower_bound"].watched() == {}


def test_terms_that_need_no_weak_images_ask_for_none():
    method = resolve("kl", {"w": 0.0}, "strong")
    assert method.sets() == STRONG and method.branches() == {"teacher": STRONG, "student": STRONG}


@given(
    st.sampled_from(sorted(METHODS)),
    st.dictionaries(st.sampled_from(sorted(set(TERMS) - {"s"})), st.sampled_from([None, 0.0, 0.1, 5.0])),
    st.sampled_from([None, *SETS]),
)
def test_every_term_finds_its_images_in_every_branch_it_reads(name, terms, kd_on):
    method = resolve(name, terms, kd_on)
    branches = method.branches()
    assert 0.0 not in method.terms.values()
    for term in method.terms:
        assert set(method.images(term)) <= set(method.sets())
        assert all(set(method.images(term)) <= set(branches[branch]) for branch in TERMS[term].branches)
        for branch in TERMS[term].targets:
            assert set(method.images(term)) <= {*branches[branch], *method.watched().get(branch, ())}
    assert not any(set(branches[branch]) & set(sets) for branch, sets in method.watched().items())
    assert set(branches) == {branch for term in method.terms for branch in TERMS[term].branches}
    assert ("student" in branches) == bool({"w", "kd", "ent", "pseudo"} & set(method.terms))


def test_each_term_teaches_the_branch_it_should():
    """From full masks the teacher learns, from all else the student; one term is not moved by another's labels."""
    generator = np.random.default_rng(0)
    logits = {b: jnp.array(generator.normal(size=(2, 3, 3, 2)), jnp.float32) for b in ("teacher", "student")}
    labels = {k: jnp.array(generator.integers(0, 2, (2, 3, 3)), jnp.int32) for k in ("label", "weak_label")}
    learns = dict.fromkeys(("s", "teacher_w", "teacher_ent"), "teacher")
    learns |= dict.fromkeys(("w", "kd", "ent", "pseudo"), "student")
    reads = {name: set() for name in TERMS} | {"s": {"label"}, "w": {"weak_label"}, "teacher_w": {"weak_label"}}
    assert set(learns) == set(TERMS)
    for name, term in TERMS.items():
        value, gradient = jax.value_and_grad(term.loss)(logits, labels)
        assert {branch for branch, g in gradient.items() if g.any()} == {learns[name]} == set(term.branches)
        for key in labels:
            changed = term.loss(logits, labels | {key: 1 - labels[key]})
            assert (changed != value) == (key in reads[name])
