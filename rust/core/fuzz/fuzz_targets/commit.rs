//! A commit that is accepted is possible, and survives being written.
#![no_main]

use dejavec_core::format::commit::{Extent, FILE_BYTES, SLOT_STRIDE, Slot, Slots, slot_bytes};
use dejavec_core::format::{MAX_ELEMENTS, MAX_ROWS};
use dejavec_core::recovery::choose;
use dejavec_fuzz::parse_both;
use libfuzzer_sys::fuzz_target;

const UUID: [u8; 16] = [5; 16];

fuzz_target!(|bytes: &[u8]| {
    let most = Extent { rows: MAX_ROWS, elements: MAX_ELEMENTS };
    for version in [1, 2] {
        for position in [0, 1] {
            parse_both(bytes, |bytes| {
                if let Ok(slot) = Slot::parse(bytes, position, &UUID, version) {
                    assert!(slot.committed.covers(slot.synced) && most.covers(slot.committed));
                    assert_eq!(slot.epoch % 2, position);
                    assert_eq!(Slot::parse(&slot.to_bytes(&UUID, version), position, &UUID, version), Ok(slot));
                }
            });
        }
        // The same bytes as the records of both slots.
        let (mut file, length) = (vec![0; FILE_BYTES], slot_bytes(version));
        for (slot, record) in file.chunks_mut(SLOT_STRIDE).zip(bytes.chunks_exact(length)) {
            slot[..length].copy_from_slice(record);
            dejavec_fuzz::seal(&mut slot[..length]);
        }
        if let Ok(slots) = Slots::parse(&file, &UUID, version) {
            for whole in [Extent::default(), slots.newest.synced, slots.newest.committed, most] {
                if let Some(recovered) = choose(&slots, whole) {
                    let committed = recovered.slot.committed;
                    assert!(whole.covers(committed) && committed.covers(slots.newest.synced));
                }
            }
        }
    }
});
