// Sharing a ledger's capacity between namespaces.

package ledger

import "github.com/podid-io/podid/internal/assignment"

// Overflow returns those of the candidates (keys of new entries) for which the ledger has no room,
// given its present entries. tenants returns the namespaces that ask for a candidate.
func Overflow(
	entries map[string]Entry, candidates []string, newEntry func(key string) Entry, tenants func(key string) []string,
) []string {
	room := assignment.Room{Total: Capacity, Used: map[string]int{}}
	for _, entry := range entries {
		room.Used[entry.Namespace] += entry.Size()
	}
	_, refused := room.Admit(candidates, func(key string) int { return newEntry(key).largest().Size() }, tenants)
	return refused
}

// largest returns the entry with everything that may be added to it later.
func (e Entry) largest() Entry {
	const guid = "00000000-0000-0000-0000-000000000000"
	e.ClientID, e.PrincipalID = guid, guid
	return e
}

// ClientIDFor returns a client ID as an entry has it: empty if it is longer than a GUID. Such a
// one stands for no identity and could be of any length.
func ClientIDFor(clientID string) string {
	const guidLength = 36
	if len(clientID) > guidLength {
		return ""
	}
	return clientID
}
