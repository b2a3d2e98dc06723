// The bound on the work that a password-protected file can ask for.

package keyfile

import (
	"encoding/asn1"
	"errors"
	"fmt"
)

const (
	// maxIterations of a password's derivation. Tools write between 1 and 600,000. A million take
	// about a second of CPU time.
	maxIterations = 1_000_000
	// maxDepth of nested structures. A PFX has some 12.
	maxDepth = 32
)

var errTooMuchWork = errors.New("reading it would take too long")

// checkIterations refuses DER that asks for more than maxIterations. It does not follow the
// formats. It checks every integer right after an octet string (the salt): that is where the counts
// of PKCS#5, PKCS#12 and a PFX's MAC are, and where no other large integer is. It cannot see what
// is encrypted.
func checkIterations(der []byte) error {
	return walk(der, 0)
}

func walk(der []byte, depth int) error {
	if depth > maxDepth {
		return errors.New("it is nested too deeply")
	}
	afterSalt := false
	for len(der) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			return nil //nolint:nilerr // not DER: an octet string of something else
		}
		der = rest
		if afterSalt && v.Class == asn1.ClassUniversal && v.Tag == asn1.TagInteger {
			if err := checkCount(v); err != nil {
				return err
			}
		}
		afterSalt = v.Tag == asn1.TagOctetString // of any class: some readers look at the tag alone
		if v.IsCompound || afterSalt {
			if err := walk(v.Bytes, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkCount(v asn1.RawValue) error {
	var count int64
	if _, err := asn1.Unmarshal(v.FullBytes, &count); err != nil || count < 0 || count > maxIterations {
		return fmt.Errorf("%w: its password is derived with more than %d iterations", errTooMuchWork, maxIterations)
	}
	return nil
}
