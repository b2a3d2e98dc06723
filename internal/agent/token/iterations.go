// A bound on the work that a file with a password can ask for.

package token

import (
	"encoding/asn1"
	"errors"
	"fmt"
)

// maxDepth of nested structures; a PFX has some 12.
const maxDepth = 32

// checkIterations refuses a PFX that asks for more than maxIterations of a
// password's derivation. It does not follow the formats, but takes every integer
// that stands where a count can stand: right after an octet string (the salt).
// Counts, and nothing else of that size, stand there in the parameters of PKCS#5
// and PKCS#12 and in a PFX's MAC. What is encrypted it cannot see.
func checkIterations(der []byte) error {
	return walk(der, 0)
}

var errTooMuchWork = errors.New("reading it would take too long")

func walk(der []byte, depth int) error {
	if depth > maxDepth {
		return errors.New("it is nested too deeply")
	}
	afterSalt := false
	for len(der) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			return nil //nolint:nilerr // no DER in here: an octet string of something else
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
