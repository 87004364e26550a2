//! The lake for other tools: which files are a table, and the tables and views as SQL that DuckDB takes.

use std::fmt::Write as _;

use arrow::datatypes::{DataType, Field};

use super::{QueryError, lake};
use crate::sink::lake::manifest::{Location, TableFiles};
use crate::sink::views::{Dialect, views};

/// A file of a table, as of the latest manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeFile {
    pub table: String,
    /// Absolute, or a URL.
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
}

/// The files of this table, or of all, as of one commit.
///
/// # Errors
/// [`QueryError::Unavailable`]: there is no lake, or it cannot be read. [`QueryError::Sql`]: no such table.
pub async fn lake_files(root: &str, table: Option<&str>) -> Result<Vec<LakeFile>, QueryError> {
    let (location, manifest) = lake::latest(root).await?;
    if let Some(name) = table.filter(|name| manifest.table(name).is_none()) {
        let names: Vec<&str> = manifest.tables.iter().map(|table| table.name.as_str()).collect();
        return Err(QueryError::Sql(format!("no table {name}{}", lake::hint(name, &names))));
    }
    let wanted = manifest.tables.iter().filter(|of| table.is_none_or(|name| of.name == name));
    let files = wanted.flat_map(|table| table.files.iter().map(move |file| (table, file)));
    let of = |(table, file): (&TableFiles, &crate::sink::lake::manifest::File)| LakeFile {
        table: table.name.clone(),
        path: address(&location, &file.path),
        rows: file.rows,
        bytes: file.bytes,
    };
    Ok(files.map(of).collect())
}

/// What the views take out of JSON.
const MACROS: &str = r#"CREATE OR REPLACE MACRO JSONExtractRaw(j, k) AS coalesce(CAST(json_extract(j, '$."' || k || '"') AS VARCHAR), '');
CREATE OR REPLACE MACRO JSONExtractFloat(j, k) AS coalesce(TRY_CAST(json_extract(j, '$."' || k || '"') AS DOUBLE), 0);
CREATE OR REPLACE MACRO JSONExtractString(j, k) AS coalesce(json_extract_string(j, '$."' || k || '"'), '');
"#;

/// Every table and view of the lake as a view of DuckDB, as of one commit.
///
/// # Errors
/// As of [`lake_files`].
pub async fn duckdb_script(root: &str) -> Result<String, QueryError> {
    let (location, manifest) = lake::latest(root).await?;
    let mut script = format!(
        "-- The lake {} as of commit {}: run it again for later ones.\nSET TimeZone = 'UTC';\n",
        location.name.replace('\n', " "),
        manifest.shipped_upto.unwrap_or(0)
    );
    script += MACROS;
    let mut shown = Vec::new();
    for table in &manifest.tables {
        // A column that no file has yet is there, and of its type.
        let schema = table.table(true).schema;
        let columns: Vec<String> = schema.fields().iter().map(|field| column(field)).collect();
        let mut select = format!("SELECT {} WHERE false", columns.join(", "));
        if !table.files.is_empty() {
            let files: Vec<String> = table.files.iter().map(|file| text(&address(&location, &file.path))).collect();
            let files = files.join(",\n  ");
            select += &format!(" UNION ALL BY NAME SELECT * FROM read_parquet([\n  {files}], union_by_name = true)");
        }
        let _ = writeln!(script, "CREATE OR REPLACE VIEW {} AS {select};", name(&table.name));
        shown.push(table.table(false));
    }
    for view in views(&shown, Dialect::DataFusion) {
        let _ = writeln!(script, "CREATE OR REPLACE VIEW {} AS {};", name(&view.name), view.sql);
    }
    Ok(script)
}

fn address(location: &Location, path: &str) -> String {
    match &location.folder {
        Some(folder) => folder.join(path).display().to_string(),
        None => format!("{}/{path}", location.name),
    }
}

fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn column(field: &Field) -> String {
    let of = match field.data_type() {
        DataType::Decimal128(precision, scale) => {
            return format!("NULL::DECIMAL({precision}, {scale}) AS {}", name(field.name()));
        }
        DataType::Date32 => "DATE",
        DataType::Boolean => "BOOLEAN",
        DataType::Int32 => "INTEGER",
        DataType::Int64 => "BIGINT",
        DataType::UInt32 => "UINTEGER",
        DataType::UInt64 => "UBIGINT",
        DataType::Float64 => "DOUBLE",
        DataType::Timestamp(..) => "TIMESTAMPTZ",
        DataType::Binary => "BLOB",
        DataType::Map(..) => "MAP(VARCHAR, VARCHAR)",
        _ => "VARCHAR",
    };
    format!("NULL::{of} AS {}", name(field.name()))
}
