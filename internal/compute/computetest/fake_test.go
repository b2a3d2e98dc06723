package computetest_test

import (
	"testing"

	"github.com/podid-io/podid/internal/compute/computetest"
)

func TestFake(t *testing.T) {
	computetest.Conform(t, func(*testing.T) (computetest.Azure, computetest.Client) {
		fake := computetest.NewFake()
		return fake, fake
	})
}
