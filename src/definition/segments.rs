//! Segments → plans.

use std::collections::BTreeSet;

use super::check::Checker;
use super::lists;
use super::outputs::{canonical_sql, version};
use super::scope::{ProfileScope, Whose};
use super::spec::*;
use super::traits::versions_of;
use crate::expression::Expression;
use crate::identity::IdentityPlan;
use crate::profile::TraitPlan;
use crate::segment::{SegmentPlan, SegmentRule, membership_column, since_column};

/// A segment that has been checked by itself.
struct Waiting<'d> {
    segment: &'d Named<SegmentSpec>,
    rule: SegmentRule,
    /// What it says, apart from what it reads.
    text: String,
}

/// What conditions over profiles may read.
pub fn scope(
    checker: &Checker,
    (traits_specs, specs): (&[Named<TraitSpec>], &[Named<SegmentSpec>]),
    whose: Whose<'_>,
    traits: &[TraitPlan],
) -> ProfileScope {
    let sound: BTreeSet<&str> = traits.iter().map(|plan| plan.name.as_str()).collect();
    let broken = traits_specs.iter().filter(|other| !sound.contains(other.name.as_str()));
    let mut scope = ProfileScope {
        segments: specs.iter().map(|segment| segment.name.clone()).collect(),
        broken: broken.map(|other| other.name.clone()).collect(),
        foreign: checker.foreign(whose),
        ..ProfileScope::new(whose)
    };
    traits.iter().for_each(|plan| scope.add(plan));
    scope
}

/// Plans in an order in which a segment comes after those it refers to.
pub fn segments(
    checker: &Checker,
    (traits_specs, specs): (&[Named<TraitSpec>], &[Named<SegmentSpec>]),
    whose: Whose<'_>,
    traits: &[TraitPlan],
    identity: &IdentityPlan,
) -> Vec<SegmentPlan> {
    let scope = scope(checker, (traits_specs, specs), whose, traits);
    let mut waiting: Vec<Waiting> = Vec::new();
    for segment in specs {
        let Some(body) = &segment.body else { continue };
        let (rule, text) = match body {
            SegmentSpec::Predicate(sql) => {
                let what = format!("segment `{}`", segment.name);
                scope.touched_broken.set(false);
                if Expression::compile(&sql.scalar.text, &scope).is_err() && scope.touched_broken.get() {
                    continue;
                }
                // Compiled once more for its findings.
                let Some(predicate) = checker.condition(sql, &scope, &what) else { continue };
                let text = canonical_sql(&predicate.sql);
                (SegmentRule::Predicate(predicate), text)
            }
            SegmentSpec::List(_) | SegmentSpec::Sample { .. } if whose != Whose::People => {
                let message = "samples and lists are of people, so far not of groups";
                checker.reader.findings.error(segment.span, message, "write a condition over traits".to_string());
                continue;
            }
            SegmentSpec::List(spec) => {
                let Some((list, text)) = lists::list(checker, identity, spec) else { continue };
                (SegmentRule::List(list), text)
            }
            SegmentSpec::Sample { below } => (SegmentRule::Sample { below: *below }, format!("sample {below}")),
        };
        waiting.push(Waiting { segment, rule, text });
    }
    order(checker, waiting, traits)
}

/// The segments that a rule names.
fn references(rule: &SegmentRule) -> impl Iterator<Item = &str> {
    let inputs = match rule {
        SegmentRule::Predicate(expression) => expression.inputs.as_slice(),
        SegmentRule::Sample { .. } | SegmentRule::List(_) | SegmentRule::Nobody => &[],
    };
    let (member, since) = (membership_column(""), since_column(""));
    inputs.iter().filter_map(move |input| {
        input.column.strip_prefix(member.as_str()).or_else(|| input.column.strip_prefix(since.as_str()))
    })
}

fn order(checker: &Checker, mut waiting: Vec<Waiting>, traits: &[TraitPlan]) -> Vec<SegmentPlan> {
    let mut plans: Vec<SegmentPlan> = Vec::new();
    loop {
        let ready = waiting
            .iter()
            .position(|one| references(&one.rule).all(|name| waiting.iter().all(|other| other.segment.name != name)));
        let Some(index) = ready else { break };
        let Waiting { segment, rule, text } = waiting.remove(index);
        // The meaning changes with that of the traits and segments it reads.
        let mut reads = match &rule {
            SegmentRule::Predicate(predicate) => versions_of(traits, predicate),
            SegmentRule::Sample { .. } | SegmentRule::List(_) | SegmentRule::Nobody => Vec::new(),
        };
        for name in references(&rule) {
            reads.extend(plans.iter().find(|plan| plan.name == name).map(|plan| plan.version.to_string()));
        }
        let version = version(&["segment", &segment.name, &text, &reads.join(",")]);
        plans.push(SegmentPlan { name: segment.name.clone(), version, rule });
    }
    report_circles(checker, &waiting);
    plans
}

/// What is left refers to itself in a circle, or to something that does. Each circle is shown once.
fn report_circles(checker: &Checker, waiting: &[Waiting<'_>]) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for Waiting { segment: start, .. } in waiting {
        let mut way: Vec<&str> = vec![&start.name];
        loop {
            let last = way[way.len() - 1];
            let rule = waiting.iter().find(|other| other.segment.name == last).map(|other| &other.rule);
            let next = rule.into_iter().flat_map(references);
            let next = next.into_iter().find(|name| waiting.iter().any(|other| other.segment.name == *name));
            let Some(next) = next else { break };
            if let Some(index) = way.iter().position(|name| *name == next) {
                let circle = &way[index..];
                if circle.iter().all(|name| !seen.contains(name)) {
                    let first = waiting.iter().find(|other| other.segment.name == circle[0]);
                    let span = first.map_or(start.span, |other| other.segment.span);
                    let shown = format!("{} → {}", circle.join(" → "), circle[0]);
                    let message = format!("segments refer to each other in a circle: {shown}");
                    checker.reader.findings.error(span, message, None);
                }
                seen.extend(circle);
                break;
            }
            way.push(next);
        }
    }
}
