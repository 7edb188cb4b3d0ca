//! Writing an answer's rows, as JSON or Arrow, and stopping at its bounds.
//!
//! Owns both bounds: rows, where the rest is left out and said so, and octets, where the question is refused.

use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef, ipc::writer::StreamWriter, json::ArrayWriter},
    error::DataFusionError,
    execution::SendableRecordBatchStream,
};
use futures::StreamExt as _;
use lucarne_model::flow_sql::{SqlAnswer, SqlColumn, SqlFormat};

use super::{Answer, Limits, SqlError};

/// Rows that are written between two looks at the octets.
const SLICE: usize = 1024;

/// Writes up to `most` rows of the stream.
pub(super) async fn write(
    mut stream: SendableRecordBatchStream,
    format: SqlFormat,
    most: usize,
    limits: Limits,
) -> Result<Answer, SqlError> {
    let schema = stream.schema();
    let mut writer = Writer::new(format, &schema)?;
    let (mut count, mut truncated) = (0, false);
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|error| SqlError::of_execution(error, limits.memory))?;
        let taken = batch.num_rows().min(most - count);
        for start in (0..taken).step_by(SLICE) {
            writer.write(&batch.slice(start, SLICE.min(taken - start)))?;
            if writer.octets() > limits.answer {
                return Err(SqlError::TooMuchData { limit: limits.answer });
            }
        }
        count += taken;
        if taken < batch.num_rows() {
            truncated = true;
            break;
        }
    }
    writer.finish(&schema, truncated)
}

/// The columns of a schema.
pub(super) fn columns(schema: &SchemaRef) -> Vec<SqlColumn> {
    let column = |field: &datafusion::arrow::datatypes::FieldRef| SqlColumn {
        name: field.name().clone(),
        data_type: field.data_type().to_string(),
    };
    schema.fields().iter().map(column).collect()
}

enum Writer {
    Json(ArrayWriter<Vec<u8>>),
    Arrow(StreamWriter<Vec<u8>>),
}

impl Writer {
    fn new(format: SqlFormat, schema: &SchemaRef) -> Result<Self, SqlError> {
        Ok(match format {
            SqlFormat::Json => Self::Json(ArrayWriter::new(Vec::new())),
            SqlFormat::Arrow => Self::Arrow(StreamWriter::try_new(Vec::new(), schema).map_err(store)?),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), SqlError> {
        match self {
            Self::Json(writer) => writer.write(batch),
            Self::Arrow(writer) => writer.write(batch),
        }
        .map_err(store)
    }

    fn octets(&self) -> usize {
        match self {
            Self::Json(writer) => writer.get_ref().len(),
            Self::Arrow(writer) => writer.get_ref().len(),
        }
    }

    fn finish(self, schema: &SchemaRef, truncated: bool) -> Result<Answer, SqlError> {
        match self {
            Self::Json(mut writer) => {
                writer.finish().map_err(store)?;
                let rows = serde_json::from_slice(&writer.into_inner()).map_err(|_| SqlError::Stopped)?;
                Ok(Answer::Json(SqlAnswer { columns: columns(schema), rows, truncated }))
            }
            Self::Arrow(mut writer) => {
                writer.finish().map_err(store)?;
                writer.into_inner().map(|octets| Answer::Arrow { octets, truncated }).map_err(store)
            }
        }
    }
}

fn store(error: datafusion::arrow::error::ArrowError) -> SqlError {
    SqlError::Store(DataFusionError::from(error))
}
