package wakeup

import (
	"testing"

	"k8s.io/client-go/util/workqueue"
)

func TestQueue(t *testing.T) {
	var k Queue[string]
	k.Add("early", "early", "other")
	q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	defer q.ShutDown()
	if err := k.Source(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	if n := q.Len(); n != 2 {
		t.Errorf("%d keys from before, want 2", n)
	}
	k.Add("late")
	if n := q.Len(); n != 3 {
		t.Errorf("%d keys, want 3", n)
	}
}
