//! Connectors by name: those of the pipeline, then the built-in ones, which are pipeline files like any other.

use super::Mode;
use super::check::Checker;
use super::findings::{Findings, nearest_or_list};
use super::read::Reader;
use super::spec::{Definition, Literal};
use super::{sections, yaml};
use crate::activation::connector::ConnectorPlan;

/// Name and file of the connectors that the program brings along.
const BUILT_IN: [(&str, &str); 11] = [
    ("braze", include_str!("../../pipelines/connectors/braze.yaml")),
    ("customer_io", include_str!("../../pipelines/connectors/customer_io.yaml")),
    ("google_ads", include_str!("../../pipelines/connectors/google_ads.yaml")),
    ("hubspot", include_str!("../../pipelines/connectors/hubspot.yaml")),
    ("intercom", include_str!("../../pipelines/connectors/intercom.yaml")),
    ("klaviyo", include_str!("../../pipelines/connectors/klaviyo.yaml")),
    ("mailchimp", include_str!("../../pipelines/connectors/mailchimp.yaml")),
    ("meta_audiences", include_str!("../../pipelines/connectors/meta_audiences.yaml")),
    ("salesforce", include_str!("../../pipelines/connectors/salesforce.yaml")),
    ("slack", include_str!("../../pipelines/connectors/slack.yaml")),
    ("zendesk", include_str!("../../pipelines/connectors/zendesk.yaml")),
];

/// The connector of this name; reported where there is none.
pub fn find(checker: &Checker, name: &Literal) -> Option<ConnectorPlan> {
    if let Some(plan) = known(checker, &name.text) {
        return Some(plan);
    }
    let own = checker.connectors();
    // One that could not be read has been reported.
    if !own.iter().any(|connector| connector.name == name.text) {
        let names = own.iter().map(|connector| connector.name.as_str()).chain(BUILT_IN.map(|(name, _)| name));
        let help = nearest_or_list(&name.text, names);
        checker.reader.findings.error(name.span, format!("there is no connector `{}`", name.text), help);
    }
    None
}

/// [`find`] in silence.
pub fn known(checker: &Checker, name: &str) -> Option<ConnectorPlan> {
    match checker.connectors().iter().find(|connector| connector.name == name) {
        Some(own) => own.body.clone(),
        None => built_in(name, &mut Findings::default()),
    }
}

/// What is wrong with it is in the findings, and only a test ever looks.
fn built_in(name: &str, findings: &mut Findings) -> Option<ConnectorPlan> {
    let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
    let file = findings.add_file(format!("{name}.yaml").into(), text.to_string());
    let documents = yaml::parse(file, findings)?;
    let reader = Reader { findings, mode: Mode::Check, fill: false, base: ".".into(), env: &|_| None };
    let Definition { connectors, .. } = sections::read(&documents, None, &reader);
    connectors.into_iter().find(|connector| connector.name == name).and_then(|connector| connector.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_connectors_are_sound_and_in_the_folder() {
        for (name, _) in BUILT_IN {
            let mut findings = Findings::default();
            let plan = built_in(name, &mut findings);
            let said: Vec<String> = findings.into_diagnostics().iter().map(|found| found.to_string()).collect();
            assert!(plan.is_some() && said.is_empty(), "{name}\n{}", said.join("\n"));
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/connectors");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, BUILT_IN.map(|(name, _)| name));
    }
}
