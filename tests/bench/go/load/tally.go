package main

import (
	"sort"
	"time"
)

// window is the time in which things are counted.
type window struct{ begin, end time.Time }

func (one window) has(at time.Time) bool { return at.After(one.begin) && at.Before(one.end) }

// tally is of one caller. Calls and events count where they ended within the window; latency and ttft are of the calls
// that began there too; answered and errors are of the whole run.
type tally struct {
	calls, events, answered, errors int
	firstError                      error
	latency, ttft, gap              []float64
}

// ended counts a call that was answered.
func (one *tally) ended(begun, ended time.Time, window window) {
	one.answered++
	if window.has(ended) {
		one.calls++
	}
	if window.has(begun) && window.has(ended) {
		one.latency = append(one.latency, milliseconds(ended.Sub(begun)))
	}
}

// note counts events that came together: the first of their call where there was none before.
func (one *tally) note(begun, before, now time.Time, window window, events int) {
	if !window.has(now) {
		return
	}
	one.events += events
	switch {
	case !before.IsZero():
		one.gap = append(one.gap, milliseconds(now.Sub(before)))
	case window.has(begun):
		one.ttft = append(one.ttft, milliseconds(now.Sub(begun)))
	}
}

func (one *tally) failed(err error) {
	one.errors++
	if one.firstError == nil {
		one.firstError = err
	}
}

// report is what is printed; times are in milliseconds.
type report struct {
	Seconds    float64   `json:"seconds"`
	Calls      int       `json:"calls"`
	Events     int       `json:"events"`
	Answered   int       `json:"answered"`
	Errors     int       `json:"errors"`
	FirstError string    `json:"first_error"`
	Latency    quantiles `json:"latency"`
	TTFT       quantiles `json:"ttft"`
	Gap        quantiles `json:"gap"`
}

// quantiles are null where nothing was counted.
type quantiles struct {
	P50 *float64 `json:"p50"`
	P99 *float64 `json:"p99"`
}

func reportOf(tallies []tally, counted time.Duration) report {
	var all tally
	made := report{Seconds: counted.Seconds()}
	for _, one := range tallies {
		made.Calls += one.calls
		made.Events += one.events
		made.Answered += one.answered
		made.Errors += one.errors
		if one.firstError != nil {
			made.FirstError = one.firstError.Error()
		}
		all.latency = append(all.latency, one.latency...)
		all.ttft = append(all.ttft, one.ttft...)
		all.gap = append(all.gap, one.gap...)
	}
	made.Latency, made.TTFT, made.Gap = quantilesOf(all.latency), quantilesOf(all.ttft), quantilesOf(all.gap)
	return made
}

func quantilesOf(values []float64) quantiles {
	if len(values) == 0 {
		return quantiles{}
	}
	sort.Float64s(values)
	at := func(share float64) *float64 { return &values[int(share*float64(len(values)-1))] }
	return quantiles{at(0.5), at(0.99)}
}

func milliseconds(length time.Duration) float64 { return length.Seconds() * 1e3 }
