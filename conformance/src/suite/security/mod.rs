//! What is refused, and what never shows.

pub(super) mod access;

use registry_core::ErrorKind;

use crate::case::{Case, Outcome};
use crate::world::World;

pub(super) const CASES: &[Case] = &[
    case!(an_unknown_option_is_refused_by_name),
    case!(a_secret_never_shows),
];

const SECRET: &str = "hunter2-of-the-suite";

/// An option that the backend does not know is not ignored; the error names it, and not its value.
async fn an_unknown_option_is_refused_by_name(world: World) -> Outcome {
    let url = world.site().url(None);
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}no-such-option={SECRET}");
    match world.backend().connect(&url).await {
        Ok(_) => ensure!(false, "an unknown option was ignored"),
        Err(error) => {
            ensure_eq!(error.kind(), ErrorKind::Config, "the kind of {error}");
            let text = format!("{error} {error:?}");
            ensure!(
                text.contains("no-such-option"),
                "the option is not named by: {error}"
            );
            ensure!(
                !text.contains(SECRET),
                "the value of an option shows in: {text}"
            );
        }
    }
    Ok(())
}

/// A password reaches neither what a registry prints of itself nor what its errors say.
async fn a_secret_never_shows(world: World) -> Outcome {
    let url = world.site().url(None);
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(crate::case::Failure::new(format!("{url} is no URL")));
    };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let url = format!("{scheme}://user:{SECRET}@{rest}");
    let text = match world.backend().connect(&url).await {
        Ok(registry) => {
            let lookup = registry
                .lookup(&world.service("web"), &Default::default())
                .await;
            format!("{registry:?} {lookup:?}")
        }
        Err(error) => format!("{error} {error:?}"),
    };
    ensure!(!text.contains(SECRET), "the password shows in: {text}");
    Ok(())
}
