package redirect

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails the package if a loop, a subscription or a listener outlives its test.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
