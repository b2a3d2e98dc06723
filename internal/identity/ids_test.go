package identity

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestIDLists(t *testing.T) {
	const client, resource = "11111111-1111-4111-8111-11111111111A", "/subscriptions/22222222-2222-4222-8222-222222222222/resourceGroups/MC/providers/Microsoft.ManagedIdentity/userAssignedIdentities/mic"
	if err := CheckIDs(" " + client + ",," + resource + " "); err != nil {
		t.Errorf("good list: %v", err)
	}
	if err := CheckIDs(""); err != nil {
		t.Errorf("empty list: %v", err)
	}
	for _, list := range []string{"kubelet", client + ",x", client[1:], resource + "/more", strings.ReplaceAll(client, "-", "")} {
		if err := CheckIDs(list); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("%q: error %v", list, err)
		}
	}
	got := slices.Sorted(maps.Keys(IDSet(SplitIDs(client + ", " + resource)...)))
	if want := []string{strings.ToLower(resource), strings.ToLower(client)}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
