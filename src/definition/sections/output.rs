//! The warehouse, and the addresses that outputs have.

use super::reference;
use crate::definition::Mode;
use crate::definition::findings::Span;
use crate::definition::read::Reader;
use crate::definition::spec::*;
use crate::definition::yaml::Node;

pub(super) fn url(reader: &Reader, node: &Node) -> Option<Literal> {
    let literal = reader.literal(node, "`url`")?;
    let problem = match url::Url::parse(&literal.text) {
        _ if !literal.known => None,
        Ok(url) if !matches!(url.scheme(), "http" | "https") => Some("only http and https can be called".to_string()),
        Ok(url) if url.password().is_some() => {
            reader.findings.hide(node.span);
            Some("a password in a URL would be seen in logs".to_string())
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    };
    match problem {
        Some(problem) => {
            reader.findings.error(node.span, format!("`url` cannot be used: {problem}"), None);
            None
        }
        None => Some(literal),
    }
}

pub fn warehouse(node: &Node, span: Span, reader: &Reader) -> Option<WarehouseSpec> {
    if let Some(scalar) = node.as_scalar() {
        if scalar.text == "lake" {
            return Some(WarehouseSpec::Lake);
        }
        let help = "write lake, or { clickhouse: { url: …, database: … } }".to_string();
        reader.findings.error(node.span, format!("there is no warehouse `{}`", scalar.text), help);
        return None;
    }
    let fields = reader.section(node, "`warehouse`", span, &reference::WAREHOUSE)?;
    let node = fields.get("clickhouse")?;
    let fields = reader.section(node, "`clickhouse`", fields.key_span("clickhouse"), &reference::CLICKHOUSE)?;
    let url_node = fields.get("url")?;
    let address = reader.literal(url_node, "`url`")?;
    let lake = address.known && address.text.is_empty();
    // Without a URL it is the lake, and the other variables need not be set.
    let reader = &Reader { mode: if lake { Mode::Check } else { reader.mode }, ..reader.clone() };
    let checked = if lake { Some(address) } else { url(reader, url_node) };
    let database = fields.get("database").and_then(|node| reader.literal(node, "`database`"));
    let user = fields.get("user").map(|node| reader.literal(node, "`user`"));
    let password = fields.get("password").map(|node| reader.secret(node, "`password`"));
    if lake {
        return Some(WarehouseSpec::Lake);
    }
    Some(WarehouseSpec::ClickHouse {
        url: checked?,
        database: database?,
        user: user.map_or(Some(None), |user| user.map(Some))?,
        password: password.map_or(Some(None), |password| password.map(Some))?,
    })
}
