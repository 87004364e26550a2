//! `audiences:` → plans.

use super::activations::consent;
use super::check::Checker;
use super::read::micros;
use super::sections::check_reference;
use super::spec::*;
use super::{bodies, connectors, findings};
use crate::activation::AudiencePlan;
use crate::identity::IdentityPlan;

pub fn audiences(checker: &Checker, definition: &Definition, identity: &IdentityPlan) -> Vec<AudiencePlan> {
    let findings = checker.reader.findings;
    let mut plans: Vec<AudiencePlan> = Vec::new();
    for (name, span, spec) in bodies(&definition.audiences) {
        if definition.activations.iter().any(|activation| activation.name == name) {
            let help = "`deliveries` calls both by their names: give one of them another".to_string();
            findings.error(span, format!("`{name}` is an activation too"), help);
            continue;
        }
        let Some(plan) = audience(checker, name, spec, identity) else { continue };
        let shares = plans.iter().find(|other| other.to == plan.to && is_connector(checker, &plan.to));
        if let Some(other) = shares {
            let message = format!("`{}` keeps the audience `{}` already", plan.to, other.name);
            let help = "a list at a vendor holds one audience: whoever leaves one of two would be removed from both. \
                        Make another destination, for another list"
                .to_string();
            findings.error(spec.to.span, message, help);
            continue;
        }
        plans.push(plan);
    }
    plans
}

fn audience(checker: &Checker, name: &str, spec: &AudienceSpec, identity: &IdentityPlan) -> Option<AudiencePlan> {
    let reader = &checker.reader;
    let mut sound = check_reference(reader, &spec.segment, "segment", &checker.segment_names());
    sound &= check_reference(reader, &spec.to, "destination", &checker.destination_names());
    sound &= takes_audiences(checker, &spec.to);
    let types = checker.identifier_types();
    let mut kinds: Vec<u16> = Vec::new();
    for literal in &spec.matches {
        sound &= check_reference(reader, literal, "identifier type", &types);
        let kind = identity.types.iter().position(|known| known.name == literal.text);
        kinds.extend(kind.map(|kind| kind as u16));
    }
    kinds.sort_unstable();
    kinds.dedup();
    let consent = consent(checker, &spec.consent);
    sound.then_some(AudiencePlan {
        name: name.to_string(),
        segment: spec.segment.text.clone(),
        to: spec.to.text.clone(),
        kinds,
        consent: consent?,
        reconcile_us: spec.reconcile.map(micros),
    })
}

fn is_connector(checker: &Checker, name: &str) -> bool {
    matches!(checker.destination(name), Some(DestinationSpec::Connector { .. }))
}

/// Whether a destination can make something of `add` and `remove`. False where something was reported.
fn takes_audiences(checker: &Checker, to: &Literal) -> bool {
    let report = |message: String| {
        checker.reader.findings.error(
            to.span,
            message,
            "audiences go to google_ads, meta_audiences, a connector \
             with the operations `add` and `remove`, a webhook, a topic or a file"
                .to_string(),
        );
        false
    };
    match checker.destination(&to.text) {
        Some(DestinationSpec::Email(_)) => report(format!("`{}` is a mail server: it keeps no audience", to.text)),
        Some(DestinationSpec::Connector { connector, .. }) => {
            let Some(plan) = connectors::known(checker, &connector.text) else { return true };
            let has = |name: &str| plan.operations.iter().any(|operation| operation.name.as_deref() == Some(name));
            let missing: Vec<&str> = ["add", "remove"].into_iter().filter(|name| !has(name)).collect();
            let all = findings::and_list(&missing);
            missing.is_empty() || report(format!("connector `{}` has no operation {all}", connector.text))
        }
        _ => true,
    }
}
