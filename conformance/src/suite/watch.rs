//! What a watch tells.

use crate::case::{Case, Outcome};
use crate::world::World;

pub(super) const CASES: &[Case] = &[case!(first_event_is_a_snapshot)];

/// The first item is everything there is, also when that is nothing.
async fn first_event_is_a_snapshot(world: World) -> Outcome {
    let (writer, reader) = (world.client().await?, world.client().await?);
    let instances = [world.instance("web", "a"), world.instance("web", "b")];
    world.register_all(&writer, &instances).await?;
    world.finds(&reader, "web", &instances).await?;
    for (service, expected) in [("web", &instances[..]), ("nobody", &[])] {
        let observer = world.observe(&reader, service).await?;
        world.shows(&observer, expected).await?;
    }
    Ok(())
}
