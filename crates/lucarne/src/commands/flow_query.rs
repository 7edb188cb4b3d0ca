//! `lucarne flow query` and `lucarne flow columns`: questions in SQL, and what can be asked for in them.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;
use lucarne_api::{bodies::flow_question::AskSql, client::Client};
use lucarne_model::flow_sql::SqlTable;
use serde_json::{Value, json};

use super::{
    Context,
    flow_answer::{RowFormat, asked, print},
};
use crate::{
    failure::{Failure, LocalCode},
    kind::Column,
    session::answer,
};

const COLUMNS: &[Column] = &[("TABLE", "table"), ("COLUMN", "column"), ("TYPE", "type")];

#[derive(Args, Clone, Debug)]
pub(crate) struct QueryArgs {
    /// One SELECT in PostgreSQL's dialect over the table `flows`, whose columns `lucarne flow columns` lists
    #[arg(required_unless_present_any = ["file", "columns"], conflicts_with_all = ["file", "columns"])]
    sql: Option<String>,
    /// Read it from a file; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "columns")]
    file: Option<PathBuf>,
    /// List the tables' columns with their types, and ask nothing
    #[arg(long)]
    columns: bool,
    /// Rows that are wanted at most, to 100000
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_rows: u32,
    /// How to write the rows, in place of --output
    #[arg(long, value_enum)]
    format: Option<RowFormat>,
    #[command(flatten)]
    reach: Reach,
}

/// Whose records.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// The records of all accounts, with the operator's own columns and the table `foreign_flows`; for operators
    #[arg(long)]
    all_accounts: bool,
}

impl QueryArgs {
    pub(super) async fn run(&self, context: &Context) -> Result<(), Failure> {
        if self.columns {
            return self.reach.list_columns(context).await;
        }
        let sql = match (&self.sql, &self.file) {
            (Some(sql), _) => sql.clone(),
            (None, Some(file)) => read(file)?,
            (None, None) => return Err(Failure::wrong_usage("write a SELECT, or name its file with --file")),
        };
        let ask = async |client: Client, name: &str| {
            let body = AskSql {
                sql: sql.clone(),
                max_rows: Some(self.max_rows),
                all_accounts: self.reach.all_accounts,
                progress: Some(name.to_owned()),
            };
            answer(client.query_flows(&body)).await
        };
        print(context, self.format, asked(&context.session, ask).await?)
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text).map(|_| text),
        false => std::fs::read_to_string(file),
    };
    read.map_err(|cause| Failure::local(LocalCode::FileUnreadable, format!("{}: {cause}", file.display())))
}

impl Reach {
    pub(super) async fn list_columns(self, context: &Context) -> Result<(), Failure> {
        let call = async |client: Client| answer(client.list_flow_tables(Some(self.all_accounts))).await;
        let tables: Vec<SqlTable> = context.session.read(call).await?;
        let of_table = |table: SqlTable| {
            let row = move |column: lucarne_model::flow_sql::SqlColumn| json!({"table": table.name, "column": column.name, "type": column.data_type});
            table.columns.into_iter().map(row)
        };
        let rows: Vec<Value> = tables.into_iter().flat_map(of_table).collect();
        context.format.print_list(&rows, COLUMNS)
    }
}
