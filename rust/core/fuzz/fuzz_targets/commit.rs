//! A commit that is accepted is possible, and survives being written.
#![no_main]

use dejavec_core::format::MAX_ROWS;
use dejavec_core::format::commit::{FILE_BYTES, SLOT_BYTES, SLOT_STRIDE, Slot, Slots};
use dejavec_core::recovery::choose;
use dejavec_fuzz::parse_both;
use libfuzzer_sys::fuzz_target;

const UUID: [u8; 16] = [5; 16];

fuzz_target!(|bytes: &[u8]| {
    for position in [0, 1] {
        parse_both(bytes, |bytes| {
            if let Ok(slot) = Slot::parse(bytes, position, &UUID) {
                assert!(slot.synced <= slot.rows && slot.rows <= MAX_ROWS && slot.epoch % 2 == position);
                assert_eq!(Slot::parse(&slot.to_bytes(&UUID), position, &UUID), Ok(slot));
            }
        });
    }
    // The same bytes as the records of both slots.
    let mut file = vec![0; FILE_BYTES];
    for (slot, record) in file.chunks_mut(SLOT_STRIDE).zip(bytes.chunks_exact(SLOT_BYTES)) {
        slot[..SLOT_BYTES].copy_from_slice(record);
        dejavec_fuzz::seal(&mut slot[..SLOT_BYTES]);
    }
    if let Ok(slots) = Slots::parse(&file, &UUID) {
        for whole_rows in [0, slots.newest.synced, slots.newest.rows, MAX_ROWS] {
            if let Some(recovered) = choose(&slots, whole_rows) {
                assert!(recovered.slot.rows <= whole_rows && recovered.slot.rows >= slots.newest.synced);
            }
        }
    }
});
