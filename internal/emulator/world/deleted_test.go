// Identities that are deleted while assigned to machines.

package world_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/podid-io/podid/internal/emulator/world"
)

// TestMadeAgain: an identity that was recreated under the name of an assigned one is not on the
// machine until it is removed and assigned again.
func TestMadeAgain(t *testing.T) {
	w, _ := newWorld(t, func(d *world.Document) { d.Settings.ARM.UpdateDuration = 0 })
	edit := func(change func(*world.Document)) {
		t.Helper()
		if err := w.Edit(func(d *world.Document) error { change(d); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	write := func(add bool) {
		t.Helper()
		if _, err := w.BeginUpdate(theVM, world.Change{User: add, Identities: assigning(add)}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when, wantID string, wantOnVM int) {
		t.Helper()
		view, _ := w.Machine(theVM)
		vm, _ := w.Caller(netip.MustParseAddr("10.0.0.4"))
		if have := view.Bound[id("vm-identity")].ClientID; len(view.Identities) != 1 || have != wantID || len(vm.User) != wantOnVM {
			t.Errorf("%s: ARM names %v as %q, want %q; %d on IMDS, want %d", when, view.Identities, have, wantID, len(vm.User), wantOnVM)
		}
	}
	stale := func(on bool) { edit(func(d *world.Document) { d.Settings.ARM.StaleIDs = on }) }

	var old world.Identity
	edit(func(d *world.Document) { old, d.Identities = d.Identities[0], d.Identities[1:] })
	check("deleted", "", 0)
	stale(true)
	check("deleted, with its old IDs", old.ClientID, 0)
	fresh := old
	fresh.ClientID, fresh.PrincipalID = world.GUID("another"), world.GUID("another principal")
	edit(func(d *world.Document) { d.Identities = append(d.Identities, fresh) })
	check("made again, with the old IDs", old.ClientID, 0)
	stale(false)
	check("made again", "", 0)
	write(true)
	check("named in a write", "", 0)
	write(false)
	write(true)
	check("taken off and assigned", fresh.ClientID, 1)
}

// assigning returns the identities of a write that adds vm-identity to theVM. A write with type
// None removes all identities.
func assigning(add bool) map[string]bool {
	if !add {
		return nil
	}
	return map[string]bool{id("vm-identity"): true}
}

func TestRefuseDeleted(t *testing.T) {
	w, _ := newWorld(t, func(d *world.Document) {
		d.Settings.ARM.UpdateDuration, d.Settings.ARM.RefuseDeleted = 0, true
		d.Identities = d.Identities[1:] // removes the VM's
	})
	_, err := w.BeginUpdate(theVM, world.Change{User: true, Identities: map[string]bool{id("other-identity"): true}})
	var unknown *world.UnknownIdentityError
	if !errors.As(err, &unknown) || unknown.ResourceID != id("vm-identity") {
		t.Errorf("error %v, want the deleted identity to be named", err)
	}
	change := world.Change{User: true, Identities: map[string]bool{id("other-identity"): true, id("vm-identity"): false}}
	if _, err := w.BeginUpdate(theVM, change); err != nil {
		t.Errorf("taking it off: %v", err)
	}
}
