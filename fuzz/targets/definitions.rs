//! Definition files: whatever stands in one, loading it ends in a pipeline or in findings that have places.

use std::path::{Path, PathBuf};

use tributary::definition::{Diagnostic, Mode, Severity, load};

use super::root;

/// A folder with what the shop's definitions refer to.
struct Folder(tempfile::TempDir);

thread_local! {
    static FOLDER: Folder = Folder::new();
}

impl Folder {
    fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().expect("a folder"));
        let shop = root().join("pipelines/shop");
        for part in ["data", "schemas", "schemas/events"] {
            std::fs::create_dir_all(folder.0.path().join(part)).expect("a folder");
            for file in std::fs::read_dir(shop.join(part)).expect("a folder").flatten() {
                // A line of events is enough.
                if file.path().is_file() && file.path().extension().is_none_or(|ending| ending != "ndjson") {
                    std::fs::copy(file.path(), folder.0.path().join(part).join(file.file_name())).expect("a copy");
                }
            }
        }
        std::fs::write(folder.0.path().join("data/events.ndjson"), "{}\n").expect("a file");
        folder
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("pipeline.yaml")
    }
}

pub fn definitions(data: &[u8]) {
    FOLDER.with(|folder| {
        let file = folder.file();
        std::fs::write(&file, data).expect("written");
        let text = std::str::from_utf8(data).unwrap_or_default();
        match load(&file, Mode::Check) {
            Ok((_, warnings)) => {
                assert!(warnings.iter().all(|found| found.severity == Severity::Warning), "{warnings:?}");
                warnings.iter().for_each(|found| check(found, &file, text));
            }
            Err(findings) => {
                assert!(findings.iter().any(|found| found.severity == Severity::Error), "{findings:?}");
                findings.iter().for_each(|found| check(found, &file, text));
            }
        }
    });
}

/// The place is in the file, and the finding can be shown.
fn check(found: &Diagnostic, file: &Path, text: &str) {
    assert!(!found.message.is_empty());
    assert!(!found.to_string().is_empty());
    if found.line == 0 {
        assert_eq!((found.column, found.length, found.text.as_str()), (0, 0, ""), "{found:?}");
        return;
    }
    if found.file != file {
        return;
    }
    let line = text.split('\n').nth(found.line - 1).unwrap_or_else(|| panic!("no such line: {found:?}"));
    let line = line.trim_end_matches('\r');
    // Secrets are blotted out, letter for letter.
    assert_eq!(found.text.chars().count(), line.chars().count(), "{found:?}");
    assert!(found.column >= 1 && found.length >= 1, "{found:?}");
    // A finding about what is missing at the end of a line stands behind it.
    let end = found.column - 1 + found.length;
    assert!(end <= line.chars().count().max(found.column), "{found:?}");
}
