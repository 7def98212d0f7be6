"""Every rule matches its own cases and none of its near misses; a wrong rule is one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from overspan.doctor.rules import LogRule, load_rules
from overspan.schema.errors import RecipeError
from support.doctor import failed_rules, root_of

RULES = load_rules()
MATCH = [pytest.param(rule, case, id=f"{rule.id}-{n}") for rule in RULES for n, case in enumerate(rule.cases.match)]
NEAR = [pytest.param(rule, case, id=f"{rule.id}-{n}") for rule in RULES for n, case in enumerate(rule.cases.near_miss)]
GOOD = """\
category: site
rules:
- id: site-proxy
  title: The site's proxy is down
  match: ['squid says no']
  cause: The proxy of this site is down.
  fix: call 42
  source: the site
  cases: {match: ['squid says no'], near_miss: ['squid says yes']}
"""


@pytest.mark.parametrize(("rule", "case"), MATCH)
def test_a_rule_is_the_root_of_its_own_case(rule: LogRule, case: str) -> None:
    assert root_of(case) == rule.id


@pytest.mark.parametrize(("rule", "case"), NEAR)
def test_a_rule_does_not_match_its_near_miss(rule: LogRule, case: str) -> None:
    assert rule.id not in failed_rules(case)


def test_every_pattern_of_a_shipped_rule_compiles_and_has_plain_text_to_look_for() -> None:
    for rule in RULES:
        LogRule.model_validate(rule.model_dump())


def test_each_alternative_of_an_operators_pattern_is_found(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        GOOD.replace("['squid says no']\n  cause", "['squid says no|octopus says no']\n  cause")
    )
    assert root_of("squid says no", tmp_path) == root_of("octopus says no", tmp_path) == "site-proxy"


def test_an_operators_rule_is_used_and_replaces_one_of_the_same_id(tmp_path: Path) -> None:
    second = GOOD[GOOD.index("- id") :].replace("site-proxy", "disk-full").replace("squid", "octopus")
    (tmp_path / "site.yaml").write_text(GOOD + second)
    assert root_of("worker: squid says no", tmp_path) == "site-proxy"
    assert root_of("worker: octopus says no", tmp_path) == "disk-full"
    assert root_of("OSError: [Errno 28] No space left on device", tmp_path) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("  source: the site", "  source: the site\n  severty: error"),
            r"line 9, column 3: unknown key 'rules.0.severty'",
        ),
        (("'squid says no']\n  cause", "'(squid']\n  cause"), r"rules.0.match.*missing \)"),
        (("'squid says no']\n  cause", "'a.*b']\n  cause"), r"rules.0.match.*plain characters"),
        (("near_miss: ['squid says yes']", "near_miss: []"), r"near_miss"),
        (
            ("source: the site", "source: the site\n  explains: [disk-ful]"),
            r"which is not a rule: did you mean disk-full",
        ),
    ],
)
def test_a_wrong_rule_is_one_clear_error(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    (tmp_path / "site.yaml").write_text(GOOD.replace(*change))
    with pytest.raises(RecipeError, match=said):
        load_rules((tmp_path,))
