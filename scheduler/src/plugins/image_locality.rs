//! Prefers nodes that have the pod's images already, the more of them the larger they are.

use crate::framework::{MAX_SCORE, Score};
use crate::model::{NodeInfo, PodInfo, Snapshot};

pub(super) struct ImageLocality;

const MB: i64 = 1024 * 1024;
/// Less than this is not worth a preference.
const SMALL: i64 = 23 * MB;
/// More than this, per container, counts as this.
const LARGE: i64 = 1000 * MB;

/// As nodes list images: with a tag.
fn normalized(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

impl Score for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn prepare<'s>(
        &self,
        pod: &'s PodInfo,
        snapshot: &'s Snapshot,
        _: &[&'s NodeInfo],
    ) -> Option<Box<dyn Fn(&NodeInfo) -> i64 + 's>> {
        let nodes = i64::try_from(snapshot.len()).unwrap_or(i64::MAX).max(1);
        // An image that few nodes have counts little, so that they are not all filled up because of it.
        let images: Vec<(String, i64)> = pod.images.iter().map(|image| normalized(image)).map(|image| {
            let on = i64::try_from(snapshot.nodes_with_image(&image)).unwrap_or(0);
            (image, on)
        }).collect();
        if images.iter().all(|(_, on)| *on == 0) {
            return None;
        }
        let containers = i64::try_from(pod.images.len()).unwrap_or(1).max(1);
        Some(Box::new(move |node| {
            let sum: i64 = images
                .iter()
                .filter_map(|(image, on)| Some(node.images.get(image)?.saturating_mul(*on) / nodes))
                .sum();
            let top = LARGE * containers;
            MAX_SCORE * (sum.clamp(SMALL, top) - SMALL) / (top - SMALL)
        }))
    }
}
