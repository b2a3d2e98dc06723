// Lists of identities in flags.

package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/podid-io/podid/internal/ascii"
)

// ErrNoIdentity is the error for a text that is neither a client ID nor a resource ID.
var ErrNoIdentity = errors.New("neither a client ID (a GUID) nor a resource ID of the form " + ResourceIDShape)

// SplitIDs splits a list of client IDs and resource IDs at commas and spaces.
func SplitIDs(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// IsID reports whether the text is a client ID or a resource ID.
func IsID(id string) bool {
	if isGUID(id) {
		return true
	}
	_, err := ParseResourceID(id)
	return err == nil
}

// CheckIDs returns an error that wraps ErrNoIdentity for each entry that is not an ID.
func CheckIDs(list string) error {
	var wrong []error
	for _, id := range SplitIDs(list) {
		if !IsID(id) {
			wrong = append(wrong, fmt.Errorf("%q is %w", id, ErrNoIdentity))
		}
	}
	return errors.Join(wrong...)
}

// IDSet returns the IDs as a set for Rules.ClusterIdentities, in lower case.
func IDSet(ids ...string) map[string]bool {
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[ascii.ToLower(id)] = true
	}
	return set
}
