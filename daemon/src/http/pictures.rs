//! Pictures of the fixed samples, as they lie in the run directory.
//!
//! The worker puts pictures there first and names them in `index.json` then. Only what the index names is served, and
//! only if it is a plain file of that folder: a name is never a path.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use axum::extract::{Path as Asked, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use super::{Door, refuse};

/// Longest index.
const INDEX_BYTES: u64 = 1 << 20;

/// Largest picture; a view of 224 pixels squared has a hundred kilobytes.
const PICTURE_BYTES: u64 = 8 << 20;

/// The first bytes of every PNG.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A picture's name in the address, and its key in the index.
const KINDS: [(&str, &str); 4] =
    [("view", "view"), ("masked", "masked_view"), ("true", "true"), ("predicted", "predicted")];

const NONE_YET: &str =
    "there are no pictures of this run; they come with its first checkpoint or as its recipe says";

/// `GET /api/v1/samples`: the index as it is.
pub async fn index(State(door): State<Door>) -> Response {
    match blocking(door, |folder| Ok(read_index(folder)?.0)).await {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(refusal) => refusal,
    }
}

/// `GET /api/v1/samples/{number}/{kind}.png`.
pub async fn picture(
    State(door): State<Door>,
    Asked((number, name)): Asked<(usize, String)>,
    headers: HeaderMap,
) -> Response {
    let kind = name.strip_suffix(".png").and_then(|word| KINDS.iter().find(|(kind, _)| *kind == word));
    let Some((_, key)) = kind else {
        return refuse(
            StatusCode::NOT_FOUND,
            "pictures are view.png, masked.png, true.png and predicted.png",
        );
    };
    // The step is in a picture's name, so a name means the same bytes for ever.
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let found = blocking(door, move |folder| {
        let (_, index) = read_index(folder)?;
        let Some(name) = index["samples"].get(number).and_then(|sample| sample[key].as_str()) else {
            return Err(not_found(&format!("the index names no {key:?} picture of sample {number}")));
        };
        let tag = format!("\"{name}\"");
        let bytes = if known.as_ref() == Some(&tag) { None } else { Some(read_picture(folder, name)?) };
        Ok((tag, bytes))
    });
    let (tag, bytes) = match found.await {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    let caching = [(header::ETAG, tag), (header::CACHE_CONTROL, "no-cache".to_owned())];
    match bytes {
        Some(bytes) => (caching, [(header::CONTENT_TYPE, "image/png")], bytes).into_response(),
        None => (StatusCode::NOT_MODIFIED, caching).into_response(),
    }
}

/// Reads files beside the thread that serves, so that a disk that hangs holds up nobody else.
async fn blocking<T: Send + 'static>(
    door: Door,
    read: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, Response> {
    let Ok(_turn) = door.disk.acquire().await else {
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending"));
    };
    let folder = door.pictures.clone();
    match tokio::task::spawn_blocking(move || read(&folder)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            Err(refuse(StatusCode::NOT_FOUND, &error.to_string()))
        }
        Ok(Err(error)) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
        Err(_) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "reading the pictures broke off")),
    }
}

fn read_index(folder: &Path) -> io::Result<(String, Value)> {
    let bytes = match read_file(folder, "index.json", INDEX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_found(NONE_YET)),
        outcome => outcome?,
    };
    let damaged = |error: &dyn std::fmt::Display| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("pictures/index.json of the run is damaged: {error}"),
        )
    };
    let text = String::from_utf8(bytes).map_err(|error| damaged(&error))?;
    let index = serde_json::from_str(&text).map_err(|error| damaged(&error))?;
    Ok((text, index))
}

fn read_picture(folder: &Path, name: &str) -> io::Result<Vec<u8>> {
    let plain = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
    if !name.bytes().all(plain) || name.starts_with('.') || !name.ends_with(".png") || name.len() > 200 {
        return Err(not_found("the index names something that is no picture of this folder"));
    }
    let bytes = match read_file(folder, name, PICTURE_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(not_found("this picture has just been replaced; ask for /api/v1/samples again"));
        }
        outcome => outcome?,
    };
    if !bytes.starts_with(PNG) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("pictures/{name} of the run is no PNG"),
        ));
    }
    Ok(bytes)
}

/// Reads a plain file of a folder; a link, a pipe or a device is none.
fn read_file(folder: &Path, name: &str, most: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = match rustix::fs::open(folder.join(name), flags, Mode::empty()) {
        Err(rustix::io::Errno::LOOP) => return Err(not_found("this picture is a link")),
        outcome => outcome?.into(),
    };
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(not_found("this picture is no plain file"));
    }
    let mut bytes = Vec::with_capacity(about.len().min(most) as usize);
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let message = format!("pictures/{name} of the run is larger than {} MiB", most >> 20);
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(bytes)
}

fn not_found(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, message)
}
