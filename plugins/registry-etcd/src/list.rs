//! Reading a range whole, page by page, as it was at one revision.

use std::sync::Arc;

use etcd_client::{GetOptions, KeyValue};
use registry_core::{Instance, Result};

use crate::client::{Connection, Link};
use crate::codec::{Codec, Range};
use crate::error::Remedy;

/// Records of one page; less where they are so long that an answer grows beyond [`LARGEST`].
const PAGE: i64 = 2000;

/// Bytes of the largest answer that is taken. tonic's default of 4 MiB is less than a page of long records, or than a
/// transaction where `--max-request-bytes` allows it.
pub(crate) const LARGEST: usize = 16 << 20;

/// What a range held at one revision.
pub(crate) struct Listing {
    pub(crate) instances: Vec<Arc<Instance>>,
    pub(crate) revision: i64,
    /// The connection that it was read from.
    pub(crate) link: Link,
}

struct Page {
    records: Vec<KeyValue>,
    more: bool,
    revision: i64,
    link: Link,
}

/// Reads a range; the answer is linearizable: it holds all that was written before the call.
pub(crate) async fn list(connection: &Connection, codec: &Codec, range: &Range) -> Result<Listing> {
    let mut instances = Vec::new();
    let mut limit = PAGE;
    let mut page = read(connection, range.start.clone(), range, None, &mut limit).await?;
    let revision = page.revision;
    loop {
        let records = std::mem::take(&mut page.records);
        let next = records.last().filter(|_| page.more);
        let next = next.map(|record| [record.key(), &[0]].concat());
        let decode = async {
            instances.extend(records.iter().filter_map(|record| codec.decode(record)));
        };
        let Some(start) = next else {
            decode.await;
            return Ok(Listing {
                instances,
                revision,
                link: page.link,
            });
        };
        // The next page travels while this one is decoded.
        let following = read(connection, start, range, Some(revision), &mut limit);
        let (following, ()) = tokio::join!(following, decode);
        page = following?;
    }
}

async fn read(
    connection: &Connection,
    start: Vec<u8>,
    range: &Range,
    revision: Option<i64>,
    limit: &mut i64,
) -> Result<Page> {
    loop {
        let mut options = GetOptions::new()
            .with_range(range.end.clone())
            .with_limit(*limit);
        if let Some(revision) = revision {
            options = options.with_revision(revision);
        }
        let page = connection.call(|link| {
            let (start, options) = (start.clone(), options.clone());
            async move {
                let client = link.client.kv_client();
                let mut client = client.max_decoding_message_size(LARGEST);
                let mut answer = client.get(start, Some(options)).await?;
                Ok(Page {
                    records: answer.take_kvs(),
                    more: answer.more(),
                    revision: answer.header().map_or(0, |header| header.revision()),
                    link,
                })
            }
        });
        match page.await {
            Ok(page) => return Ok(page),
            Err((Remedy::Smaller, _)) if *limit > 1 => *limit = (*limit / 8).max(1),
            Err((_, error)) => return Err(error),
        }
    }
}
