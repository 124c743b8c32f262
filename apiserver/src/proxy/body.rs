//! The body of an answer on its way back: as it is, or with the links of its HTML rewritten, compressed or not.

use std::io::Write as _;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzDecoder, GzEncoder};
use futures::StreamExt as _;
use http::{HeaderMap, header};

use super::rewrite::{Html, Links};

/// HTML in the making, in the encoding that the answer has.
enum Rewriter {
    Plain(Html<Vec<u8>>),
    Gzip(GzDecoder<Html<GzEncoder<Vec<u8>>>>),
    Deflate(DeflateDecoder<Html<DeflateEncoder<Vec<u8>>>>),
}

impl Rewriter {
    /// `None`: an encoding that we cannot look into, so the links stay.
    fn new(encoding: &str, links: Links) -> Option<Self> {
        Some(match encoding {
            "" | "identity" => Self::Plain(Html::new(Vec::new(), links)),
            "gzip" => Self::Gzip(GzDecoder::new(Html::new(GzEncoder::new(Vec::new(), Compression::default()), links))),
            "deflate" => {
                Self::Deflate(DeflateDecoder::new(Html::new(DeflateEncoder::new(Vec::new(), Compression::default()), links)))
            }
            _ => return None,
        })
    }

    fn push(&mut self, data: &[u8]) -> std::io::Result<Bytes> {
        let out = match self {
            Self::Plain(html) => {
                html.write_all(data)?;
                html.out()
            }
            Self::Gzip(decoder) => {
                decoder.write_all(data)?;
                decoder.get_mut().out().get_mut()
            }
            Self::Deflate(decoder) => {
                decoder.write_all(data)?;
                decoder.get_mut().out().get_mut()
            }
        };
        Ok(std::mem::take(out).into())
    }

    fn finish(self) -> std::io::Result<Bytes> {
        Ok(match self {
            Self::Plain(html) => html.finish()?,
            Self::Gzip(decoder) => decoder.finish()?.finish()?.finish()?,
            Self::Deflate(decoder) => decoder.finish()?.finish()?.finish()?,
        }
        .into())
    }
}

/// Whether the answer is HTML.
pub fn is_html(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/html"))
}

/// The body with its links rewritten, where that is possible; its length is then not known any more.
pub fn rewritten(headers: &mut HeaderMap, body: Body, links: Links) -> Body {
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|encoding| encoding.to_str().ok()).unwrap_or_default();
    let Some(rewriter) = Rewriter::new(encoding, links) else { return body };
    headers.remove(header::CONTENT_LENGTH);
    let state = (Some(rewriter), body.into_data_stream());
    let pieces = futures::stream::unfold(state, |(rewriter, mut source)| async move {
        let mut rewriter = rewriter?;
        let piece = match source.next().await {
            Some(Ok(data)) => {
                // Compression of megabytes at once would hold up others; pieces of a connection are small.
                let made = rewriter.push(&data);
                return Some((made.map_err(axum::Error::new), (Some(rewriter), source)));
            }
            Some(Err(error)) => Err(error),
            None => rewriter.finish().map_err(axum::Error::new),
        };
        Some((piece, (None, source)))
    });
    // An error ends the body; what follows it would be out of place.
    Body::from_stream(pieces)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http_body_util::BodyExt as _;

    use super::*;

    async fn through(encoding: &'static str, sent: Vec<u8>) -> Vec<u8> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "text/html; charset=utf-8".parse().unwrap());
        headers.insert(header::CONTENT_LENGTH, sent.len().to_string().parse().unwrap());
        if !encoding.is_empty() {
            headers.insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        }
        assert!(is_html(&headers));
        let links = Links { prefix: "/proxy".into(), hosts: Vec::new() };
        let chunks: Vec<_> = sent.chunks(5).map(|chunk| Ok::<_, axum::Error>(Bytes::copy_from_slice(chunk))).collect();
        let body = rewritten(&mut headers, Body::from_stream(futures::stream::iter(chunks)), links);
        assert_eq!(headers.contains_key(header::CONTENT_LENGTH), encoding == "br");
        body.collect().await.unwrap().to_bytes().to_vec()
    }

    const PAGE: &str = "<p>one</p><a href=\"/two\">two</a>";
    const SEEN: &str = "<p>one</p><a href=\"/proxy/two\">two</a>";

    #[tokio::test]
    async fn html_is_rewritten_in_any_encoding_we_know() {
        assert_eq!(through("", PAGE.into()).await, SEEN.as_bytes());
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(PAGE.as_bytes()).unwrap();
        let answered = through("gzip", encoder.finish().unwrap()).await;
        let mut text = String::new();
        flate2::read::GzDecoder::new(answered.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, SEEN);
        assert_eq!(through("br", PAGE.into()).await, PAGE.as_bytes(), "what cannot be read is left alone");
    }
}
