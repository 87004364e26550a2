//! The outcome of tests as JUnit XML, which CI systems show: a suite for the pipeline, a case for each test.

use super::run::Difference;
use super::text_of;
use crate::definition::TestPlan;

/// The whole document. Times are left out: a test takes none to speak of.
pub fn junit(pipeline: &str, outcomes: &[(&TestPlan, Vec<Difference>)]) -> String {
    let failures = outcomes.iter().filter(|(_, differences)| !differences.is_empty()).count();
    let (name, tests) = (escaped(pipeline), outcomes.len());
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    xml.push_str(&format!("<testsuites tests=\"{tests}\" failures=\"{failures}\">\n"));
    xml.push_str(&format!("  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\">\n"));
    for (test, differences) in outcomes {
        let (file, line) = (escaped(&test.place.file.to_string_lossy()), test.place.line);
        let test_name = escaped(&test.name);
        xml.push_str(&format!(
            "    <testcase classname=\"{name}\" name=\"{test_name}\" file=\"{file}\" line=\"{line}\""
        ));
        let Some(first) = differences.first() else {
            xml.push_str("/>\n");
            continue;
        };
        let more = if differences.len() > 1 { format!(", and {} more", differences.len() - 1) } else { String::new() };
        let message = escaped(&format!("{}: {}{more}", first.place, first.what));
        let text = escaped(&differences.iter().map(text_of).collect::<Vec<_>>().join("\n"));
        xml.push_str(&format!(">\n      <failure message=\"{message}\">{text}</failure>\n    </testcase>\n"));
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

/// For texts and attributes. Characters that XML 1.0 cannot hold at all become U+FFFD; line breaks are kept in
/// attributes as well.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\r' | '\t' => out.push_str(&format!("&#{};", u32::from(c))),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_escaped() {
        // (text, in XML)
        let rows = [
            ("plain ü 😀", "plain ü 😀"),
            ("a<b> & \"c\" 'd' ]]>", "a&lt;b&gt; &amp; &quot;c&quot; &apos;d&apos; ]]&gt;"),
            ("two\nlines\t.\r", "two&#10;lines&#9;.&#13;"),
            ("\u{0}\u{b}\u{1b}[31m\u{ffff}", "\u{fffd}\u{fffd}\u{fffd}[31m\u{fffd}"),
        ];
        for (text, expect) in rows {
            assert_eq!(escaped(text), expect, "{text:?}");
        }
    }
}
