package main

import (
	"context"
	"errors"

	"github.com/podid-io/podid/internal/sandbox/progress"
)

func (b *bench) moment(context.Context, *progress.Step) error { return errors.New("todo") }
func (b *bench) outage(context.Context, *progress.Step) error { return errors.New("todo") }
func (b *bench) many(context.Context, *progress.Step) error   { return errors.New("todo") }
func (b *bench) roll(context.Context, *progress.Step) error   { return errors.New("todo") }
func (b *bench) idle(context.Context, *progress.Step) error   { return errors.New("todo") }
